//! What the clusters' world can do: kube-proxy, nodes that come and go, several API servers, hosts outside, and
//! devices.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tombolo_playground::address::Family;
use tombolo_playground::device::Device;
use tombolo_playground::layout::Layout;
use tombolo_playground::progress::Progress;
use tombolo_playground::{
    Cluster, Cni, IpFamily, KubeProxy, Playground, Snapshot, Spec, down, images, leftovers,
};

const TESTPOD: &str = env!("CARGO_BIN_EXE_testpod");
/// There is one playground on a machine.
static ONE: Mutex<()> = Mutex::new(());

/// Runs `test` on a playground of this shape, and then sees that nothing of it is left.
fn on(spec: Spec, test: impl FnOnce(&Playground)) {
    struct Guard(Layout);
    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = down(&self.0, Progress::start());
        }
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let layout = Layout::at(directory.path().join("playground"));
    let before = Snapshot::take().unwrap();
    let guard = Guard(layout.clone());
    test(&Playground::up(spec, &layout, Progress::start()).unwrap());
    down(&layout, Progress::start()).unwrap();
    // The kernel removes namespaces and their devices a moment after the last process.
    eventually(10, || {
        let mut left = leftovers(&layout);
        left.extend(Snapshot::take().unwrap().since(&before));
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    });
    drop(guard);
}

#[test]
#[ignore = "needs root, alone; 60 s"]
fn two_nodes_and_the_world_around_them() {
    world(IpFamily::Dual);
}

#[test]
#[ignore = "needs root, alone, long; 60 s"]
fn the_world_around_nodes_of_ipv6_alone() {
    world(IpFamily::Ipv6);
}

fn world(ip_family: IpFamily) {
    let spec = Spec::new(1, 2, Cni::Bridge, &[]).unwrap();
    let spec = Spec { ip_family, kube_proxy: KubeProxy::Nftables, zones: 2, control_planes: 2, ..spec };
    on(spec, |playground| {
        let cluster = playground.cluster("east").unwrap();
        assert_eq!(zones(&cluster), "zone-1 zone-2");
        let service = serve(&cluster);
        both_answer(&cluster, &service, 30);
        the_outside_knows_nodes_but_no_pods(playground, &cluster);
        assert_eq!(playground.failures().unwrap(), Vec::<String>::new());
        // Whoever starts or goes on from here does so by the other API server.
        cluster.kill("control-plane", "kube-apiserver").unwrap();
        a_second_device_is_another_segment(&cluster);
        a_tun_device_leads_outside(playground, &cluster);
        an_address_comes_and_goes(playground, &cluster);
        both_answer(&cluster, &service, 90);
    });
}

fn the_outside_knows_nodes_but_no_pods(playground: &Playground, cluster: &Cluster) {
    for name in ["outside-1", "outside-2"] {
        let host = playground.outside(name).unwrap();
        let server = Server::start(host.command(&server_words()).unwrap());
        let count = |family| host.addresses(family).len();
        assert_eq!(count(Family::V4) + count(Family::V6), 3 * cluster.plans().count());
        for plan in cluster.plans() {
            for address in host.addresses(plan.family()) {
                let answers = asked_from(cluster, "node-1", address);
                let node = plan.node(0);
                assert!(answers.contains(&format!("remote={node} local={address}")), "{answers}");
                let url = url(address);
                let denied = kubectl_any(
                    cluster,
                    &format!("exec client -- /bin/testpod get {url} -n 3 --timeout 300"),
                );
                assert!(denied.contains("requests=3 failed=3"), "{denied}");
            }
        }
        drop(server);
    }
    assert!(playground.outside("outside-3").unwrap_err().to_string().contains("outside-1, outside-2"));
}

fn a_second_device_is_another_segment(cluster: &Cluster) {
    let addresses = cluster.add_device("node-2", Device::Second).unwrap();
    let again = cluster.add_device("node-2", Device::Second).unwrap_err().to_string();
    assert!(again.contains("remove it first"), "{again}");
    let own = cluster.add_device("node-1", Device::Second).unwrap();
    let server = Server::start(cluster.command("node-2", &server_words()).unwrap());
    for (address, own) in addresses.iter().zip(own) {
        let answers = asked_from(cluster, "node-1", *address);
        assert!(answers.contains(&format!("remote={own} local={address}")), "{answers}");
        let route = cluster.exec("node-1", &["ip", "route", "get", &address.to_string()]).unwrap();
        assert!(String::from_utf8_lossy(&route.stdout).contains("dev eth1"), "{route:?}");
    }
    drop(server);
    cluster.remove_device("node-1", Device::Second).unwrap();
    assert!(!cluster.exec("node-1", &["ip", "link", "show", "eth1"]).unwrap().status.success());
    cluster.reboot_node("node-2").unwrap();
    assert!(!cluster.exec("node-2", &["ip", "link", "show", "eth1"]).unwrap().status.success());
    cluster.add_device("node-2", Device::Second).unwrap();
}

fn a_tun_device_leads_outside(playground: &Playground, cluster: &Cluster) {
    let own = cluster.add_device("node-1", Device::Tun).unwrap();
    let link = cluster.exec("node-1", &["ip", "-oneline", "link", "show", "tun0"]).unwrap();
    assert!(String::from_utf8_lossy(&link.stdout).contains("link/none"), "{link:?}");
    let host = playground.outside("outside-1").unwrap();
    let server = Server::start(host.command(&server_words()).unwrap());
    for (family, own) in playground.spec().ip_family.families().iter().zip(own) {
        let target = host.addresses(*family)[1];
        let route = ["ip", "route", "add", &target.to_string(), "dev", "tun0"].map(str::to_owned);
        assert!(cluster.exec("node-1", &route.each_ref().map(String::as_str)).unwrap().status.success());
        let answers = asked_from(cluster, "node-1", target);
        assert!(answers.contains(&format!("remote={own} local={target}")), "{answers}");
    }
    drop(server);
    cluster.remove_device("node-1", Device::Tun).unwrap();
    assert!(!cluster.exec("node-1", &["ip", "link", "show", "tun0"]).unwrap().status.success());
    let again = cluster.remove_device("node-1", Device::Tun).unwrap_err().to_string();
    assert!(again.contains("does not have"), "{again}");
    // A reboot ends it as well.
    cluster.add_device("node-1", Device::Tun).unwrap();
    cluster.reboot_node("node-1").unwrap();
    assert!(!cluster.exec("node-1", &["ip", "link", "show", "tun0"]).unwrap().status.success());
}

fn an_address_comes_and_goes(playground: &Playground, cluster: &Cluster) {
    let server = Server::start(cluster.command("node-1", &server_words()).unwrap());
    let host = playground.outside("outside-2").unwrap();
    let ask = |address: IpAddr| {
        let output = host.exec(&[TESTPOD, "get", &url(address), "-n", "3", "--timeout", "500"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let addresses = cluster.add_device("node-1", Device::Address).unwrap();
    for &address in &addresses {
        assert!(ask(address).contains(&format!("local={address}")));
    }
    cluster.remove_device("node-1", Device::Address).unwrap();
    for &address in &addresses {
        assert!(ask(address).contains("requests=3 failed=3"));
    }
    drop(server);
}

#[test]
#[ignore = "needs root, alone, long; 80 s"]
fn services_work_by_kube_proxy() {
    for (mode, list) in [(KubeProxy::Iptables, "iptables-save"), (KubeProxy::Nftables, "nft list ruleset")] {
        let spec = Spec { kube_proxy: mode, ..Spec::new(1, 2, Cni::Bridge, &[]).unwrap() };
        on(spec, |playground| {
            let cluster = playground.cluster("east").unwrap();
            let service = serve(&cluster);
            both_answer(&cluster, &service, 30);
            let words: Vec<&str> = list.split(' ').collect();
            let rules = cluster.exec("node-1", &words).unwrap();
            assert!(String::from_utf8_lossy(&rules.stdout).contains("default/server"), "{rules:?}");
            let rules = Command::new(words[0]).args(&words[1..]).output().unwrap();
            assert!(
                !String::from_utf8_lossy(&rules.stdout).contains("default/server"),
                "rules on the machine"
            );
            // Whoever ends it ends no rule, and what changes meanwhile is not seen.
            cluster.kill("node-1", "kube-proxy").unwrap();
            kubectl(&cluster, "delete pod server-1 --timeout=30s");
            assert!(!get(&cluster, &service, 20).contains("failed=0"));
            cluster.restart("node-1", "kube-proxy").unwrap();
            eventually(30, || {
                let answers = get(&cluster, &service, 30);
                if answers.contains("failed=0") { Ok(()) } else { Err(answers) }
            });
        });
    }
}

#[test]
#[ignore = "needs root, alone, long; 40 s"]
fn nodes_come_and_go() {
    on(Spec { zones: 2, ..Spec::new(1, 2, Cni::Bridge, &[]).unwrap() }, |playground| {
        let cluster = playground.cluster("east").unwrap();
        assert_eq!(cluster.add_node(Progress::start()).unwrap(), "node-3");
        assert_eq!(cluster.nodes(), ["node-1", "node-2", "node-3"]);
        assert_eq!(zones(&cluster), "zone-1 zone-2 zone-1");
        pod(&cluster, "client", "node-1", &["pause"]);
        pod(&cluster, "server", "node-3", &["http", "--name", "third"]);
        ready(&cluster, "client server");
        let address = kubectl(&cluster, "get pod server --output jsonpath={.status.podIP}");
        assert!(get(&cluster, &address, 5).contains("requests=5 failed=0"));

        a_rebooted_node_keeps_its_disk_only(&cluster);

        cluster.remove_node("node-3").unwrap();
        assert_eq!(cluster.nodes(), ["node-1", "node-2"]);
        let nodes = kubectl(&cluster, "get nodes --output name");
        assert_eq!(nodes.split_whitespace().collect::<Vec<_>>(), ["node/node-1", "node/node-2"]);
        assert!(cluster.exec("node-3", &["true"]).unwrap_err().to_string().contains("node is \"node-3\""));
        assert!(cluster.remove_node("node-3").is_err() && cluster.reboot_node("control-plane").is_err());
        assert_eq!(playground.failures().unwrap(), Vec::<String>::new());
        assert_eq!(cluster.add_node(Progress::start()).unwrap(), "node-3", "the number is free again");
    });
}

fn a_rebooted_node_keeps_its_disk_only(cluster: &Cluster) {
    let run = |script: &str| {
        let output = cluster.exec("node-2", &["bash", "-c", script]).unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    pod(cluster, "stays", "node-2", &["http", "--name", "stays"]);
    ready(cluster, "stays");
    let addresses = "ip -oneline address show dev eth0 scope global | tr -s ' ' | cut -d' ' -f2-4";
    let before = run(addresses);
    assert!(run("touch /run/gone /var/lib/kept /opt/kept /etc/kept; ip link add gone type bridge").0);
    let kubelet = "cat /sys/fs/cgroup/system/kubelet/cgroup.procs";
    let pid = run(kubelet);
    let mut stray = cluster.command("node-2", &["sleep".into(), "600".into()]).unwrap().spawn().unwrap();
    cluster.reboot_node("node-2").unwrap();
    assert!(!stray.wait().unwrap().success(), "all processes of the node end");
    assert!(run("ls /var/lib/kept /opt/kept /etc/kept").0);
    assert!(!run("ls /run/gone").0 && !run("ip link show gone").0);
    assert_eq!(run(addresses), before);
    assert_ne!(run(kubelet), pid);
    eventually(90, || {
        let address = kubectl(cluster, "get pod stays --output jsonpath={.status.podIP}");
        let restarts = "get pod stays --output jsonpath={.status.containerStatuses[0].restartCount}";
        let restarts = kubectl(cluster, restarts);
        let answers = get(cluster, &address, 3);
        if restarts != "0" && answers.contains("requests=3 failed=0") { Ok(()) } else { Err(answers) }
    });
}

#[test]
#[ignore = "needs root, alone, long; 30 s"]
fn six_nodes_in_three_zones() {
    on(Spec { zones: 3, ..Spec::new(1, 6, Cni::Bridge, &[]).unwrap() }, |playground| {
        let cluster = playground.cluster("east").unwrap();
        assert_eq!(zones(&cluster), "zone-1 zone-2 zone-3 zone-1 zone-2 zone-3");
        kubectl(&cluster, "wait node --all --for=condition=Ready --timeout=10s");
    });
}

#[test]
#[ignore = "needs root, alone, long; 100 s"]
fn api_servers_stand_in_for_each_other() {
    on(Spec { control_planes: 3, ..Spec::new(1, 1, Cni::Bridge, &[]).unwrap() }, |playground| {
        let cluster = playground.cluster("east").unwrap();
        let points = "get endpoints kubernetes --output jsonpath={.subsets[0].addresses[*].ip}";
        eventually(30, || match kubectl(&cluster, points).split(' ').count() {
            3 => Ok(()),
            other => Err(format!("{other} API servers")),
        });
        let lease = "get lease node-1 --namespace kube-node-lease --output jsonpath={.spec.renewTime}";
        // A kubelet makes its lease some seconds after its node.
        eventually(60, || match kubectl_any(&cluster, lease) {
            said if said.contains("NotFound") => Err(said),
            _ => Ok(()),
        });
        for (number, victim) in
            ["control-plane", "control-plane-2", "control-plane-3"].into_iter().enumerate()
        {
            for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
                cluster.kill(victim, component).unwrap();
            }
            eventually(10, || if cluster.is_api_ready().unwrap() { Ok(()) } else { Err("no answer".into()) });
            let before = kubectl(&cluster, lease);
            // What schedules and controls may have been there, and is taken over when its lease has run out.
            let name = format!("after-{number}");
            kubectl(
                &cluster,
                &format!("create deployment {name} --image {} -- /bin/testpod pause", images::TEST),
            );
            kubectl(&cluster, &format!("rollout status deployment/{name} --timeout 60s"));
            eventually(30, || match kubectl(&cluster, lease) {
                after if after == before => Err("the node does not renew its lease".into()),
                _ => Ok(()),
            });
            cluster.restart(victim, "kube-apiserver").unwrap();
            let server = format!("--server=https://{}:6443", cluster.addresses().control_plane(number));
            eventually(60, || {
                let answer = kubectl_any(&cluster, &format!("get --raw=/readyz {server}"));
                if answer == "ok" { Ok(()) } else { Err(answer) }
            });
            for component in ["kube-controller-manager", "kube-scheduler"] {
                cluster.restart(victim, component).unwrap();
            }
        }
        eventually(30, || match playground.failures().unwrap() {
            failures if failures.is_empty() => Ok(()),
            failures => Err(failures.join("\n")),
        });
    });
}

/// A server on each of two nodes and a client on the first; the address of the service of both.
fn serve(cluster: &Cluster) -> String {
    pod(cluster, "client", "node-1", &["pause"]);
    for number in ["1", "2"] {
        let name = format!("server-{number}");
        pod(cluster, &name, &format!("node-{number}"), &["http", "--name", &name]);
    }
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "server"},
        "spec": {"selector": {"role": "server"}, "ports": [{"port": 8080}]},
    });
    cluster.kubectl(&["apply", "--filename", "-"], service.to_string().as_bytes()).unwrap();
    ready(cluster, "client server-1 server-2");
    kubectl(cluster, "get service server --output jsonpath={.spec.clusterIP}")
}

fn pod(cluster: &Cluster, name: &str, node: &str, args: &[&str]) {
    let role = name.split('-').next().unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"role": role}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [
            {"name": "test", "image": images::TEST, "imagePullPolicy": "Never", "args": args},
        ]},
    });
    cluster.kubectl(&["apply", "--filename", "-"], pod.to_string().as_bytes()).unwrap();
}

fn ready(cluster: &Cluster, pods: &str) {
    kubectl(cluster, &format!("wait pod {pods} --for=condition=Ready --timeout=60s"));
}

/// Sees that both servers of the service answer, and no request fails, within so many seconds.
fn both_answer(cluster: &Cluster, service: &str, seconds: u64) {
    eventually(seconds, || {
        let answers = get(cluster, service, 30);
        let both = ["name=server-1", "name=server-2"].iter().all(|name| answers.contains(name));
        if answers.contains("failed=0") && both { Ok(()) } else { Err(answers) }
    });
}

/// The zones of all nodes.
fn zones(cluster: &Cluster) -> String {
    let path = "{.items[*].metadata.labels.topology\\.kubernetes\\.io/zone}";
    kubectl(cluster, &format!("get nodes --output jsonpath={path}"))
}

/// What pod `client` hears from so many requests.
fn get(cluster: &Cluster, address: &str, count: u32) -> String {
    let Ok(address) = address.parse() else { return format!("{address:?} is no address") };
    let url = url(address);
    kubectl_any(cluster, &format!("exec client -- /bin/testpod get {url} -n {count} --timeout 1000"))
}

fn asked_from(cluster: &Cluster, node: &str, address: IpAddr) -> String {
    let output = cluster.exec(node, &[TESTPOD, "get", &url(address), "-n", "3"]).unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn url(address: IpAddr) -> String {
    format!("http://{}/", std::net::SocketAddr::new(address, 8080))
}

fn server_words() -> [String; 6] {
    [TESTPOD, "http", "--name", "me", "--port", "8080"].map(str::to_owned)
}

struct Server(Child);

impl Server {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Tries until it is good, and fails with the last error after so many seconds.
fn eventually(seconds: u64, mut attempt: impl FnMut() -> Result<(), String>) {
    let started = Instant::now();
    while let Err(error) = attempt() {
        assert!(started.elapsed() < Duration::from_secs(seconds), "not within {seconds} s: {error}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn kubectl(cluster: &Cluster, arguments: &str) -> String {
    let words: Vec<&str> = arguments.split(' ').collect();
    String::from_utf8(cluster.kubectl(&words, b"").unwrap()).unwrap()
}

/// What kubectl says, also if the command that it runs fails.
fn kubectl_any(cluster: &Cluster, arguments: &str) -> String {
    let programs = cluster.layout().programs().join("kubectl");
    let output = Command::new(programs)
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(arguments.split(' '))
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
