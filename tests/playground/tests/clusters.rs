//! Whole clusters: brought up, used, cut apart and ended, with nothing left. Needs root and some minutes.
//!
//! One test function, as there is one playground on a machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tombolo_playground::layout::Layout;
use tombolo_playground::progress::Progress;
use tombolo_playground::{
    Cluster, Cni, Error, IpFamily, LinkState, Playground, Snapshot, Spec, down, images, leftovers,
};

/// Ends the playground also when the test panics.
struct Guard(Layout);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = down(&self.0, Progress::start());
    }
}

#[test]
#[ignore = "needs root, alone, long; 180 s"]
fn clusters_come_up_work_and_leave_nothing() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let layout = Layout::at(directory.path().join("playground"));
    let before = Snapshot::take().unwrap();
    let spec = Spec::new(2, 2, Cni::Bridge, &[]).unwrap();
    let up = Playground::up(spec.clone(), &layout, Progress::start());
    // Somebody else's playground is theirs to end.
    assert!(!matches!(up, Err(Error::Occupied(_))), "{up:?}");
    let guard = Guard(layout.clone());
    let playground = up.unwrap();
    a_second_up_is_quick(&spec, &layout);
    another_shape_is_refused(&layout);
    let east = playground.cluster("east").unwrap();
    pods_talk(&east);
    volumes_of_the_machine_work(&east);
    links_fail_and_recover(&playground);
    components_die_and_return(&east);
    down(&layout, Progress::start()).unwrap();
    assert_clean(&layout, &before);

    ipv6_alone_works(&layout);
    down(&layout, Progress::start()).unwrap();
    assert_clean(&layout, &before);

    killed_up_is_cleaned_by_down(&layout, &before);
    interrupted_up_cleans_itself(&layout, &before);
    drop(guard);
}

fn a_second_up_is_quick(spec: &Spec, layout: &Layout) {
    let started = Instant::now();
    Playground::up(spec.clone(), layout, Progress::start()).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

fn another_shape_is_refused(layout: &Layout) {
    let running = Spec::new(2, 2, Cni::Bridge, &[]).unwrap();
    let other = [Spec::new(1, 1, Cni::None, &[]).unwrap(), Spec { ip_family: IpFamily::Ipv4, ..running }];
    for spec in other {
        let error = Playground::up(spec, layout, Progress::start()).unwrap_err().to_string();
        assert!(error.contains("`playground down` first"), "{error}");
    }
}

fn ipv6_alone_works(layout: &Layout) {
    let spec = Spec { ip_family: IpFamily::Ipv6, ..Spec::new(1, 2, Cni::Bridge, &[]).unwrap() };
    let playground = Playground::up(spec, layout, Progress::start()).unwrap();
    let cluster = playground.cluster("east").unwrap();
    for place in ["control-plane", "node-1", "node-2"] {
        let shown = cluster.exec(place, &["ip", "-4", "-oneline", "address", "show"]).unwrap().stdout;
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.lines().all(|line| line.contains(" lo ")), "{place} has IPv4 addresses: {shown}");
    }
    pods_talk(&cluster);
}

/// Pods on two nodes reach each other, kubectl exec and logs work, and the cluster's DNS answers.
fn pods_talk(cluster: &Cluster) {
    kubectl(cluster, "rollout status deployment/coredns --namespace kube-system --timeout 60s");
    let dns = kubectl(
        cluster,
        "get pod --namespace kube-system --selector k8s-app=kube-dns --output jsonpath={.items[0].status.podIP}",
    );
    for (name, node) in [("server", "node-1"), ("client", "node-2")] {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "nodeName": node,
                "dnsPolicy": "None",
                "dnsConfig": {"nameservers": [dns], "searches": ["default.svc.cluster.local"]},
                "containers": [{
                    "name": "test", "image": images::TEST, "args": ["http", "--name", name],
                    // Limits must be accepted even where they cannot be applied.
                    "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                    "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1},
                }],
            },
        });
        cluster.kubectl(&["apply", "--filename", "-"], pod.to_string().as_bytes()).unwrap();
    }
    kubectl(cluster, "wait pod server client --for=condition=Ready --timeout=60s");
    let addresses = kubectl(cluster, "get pod server --output jsonpath={.status.podIPs[*].ip}");
    assert_eq!(addresses.split(' ').count(), cluster.plans().count(), "{addresses}");
    for address in addresses.split(' ') {
        let server = SocketAddr::new(address.parse().unwrap(), 8080);
        let answers = kubectl(cluster, &format!("exec client -- /bin/testpod get http://{server}/ -n 3"));
        assert_eq!(answers.matches("body=name=server").count(), 3, "{answers}");
        assert!(answers.contains("total requests=3 failed=0"), "{answers}");
    }
    assert_eq!(kubectl(cluster, "logs server").trim(), "listening port=8080");
    assert_eq!(
        kubectl(cluster, "exec client -- /bin/testpod resolve kubernetes").trim(),
        format!("address ip={}", cluster.addresses().family().api_service())
    );
    let started = Instant::now();
    kubectl(cluster, "delete pod server client --timeout=30s");
    assert!(started.elapsed() < Duration::from_secs(15), "pods must end at SIGTERM");
}

/// A privileged pod sees the node's own directories by their usual paths, and its mounts reach the node.
fn volumes_of_the_machine_work(cluster: &Cluster) {
    let paths = [
        "/etc/cni/net.d",
        "/opt/cni/bin",
        "/sys/fs/bpf",
        "/run/tombolo",
        "/var/lib/tombolo",
        "/sys/fs/cgroup",
    ];
    let volumes: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(i, path)| {
            serde_json::json!({"name": format!("v{i}"), "hostPath": {"path": path, "type": "DirectoryOrCreate"}})
        })
        .collect();
    let mounts: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(i, path)| {
            serde_json::json!({"name": format!("v{i}"), "mountPath": path, "mountPropagation": "Bidirectional"})
        })
        .collect();
    let pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "privileged"},
        "spec": {"nodeName": "node-1", "hostNetwork": true, "volumes": volumes, "containers": [{
            "name": "test", "image": images::TEST, "args": ["pause"],
            "securityContext": {"privileged": true}, "volumeMounts": mounts,
        }]},
    });
    cluster.kubectl(&["apply", "--filename", "-"], pod.to_string().as_bytes()).unwrap();
    kubectl(cluster, "wait pod privileged --for=condition=Ready --timeout=60s");
    assert!(
        cluster.exec("node-1", &["ls", "-d", "/run/tombolo", "/var/lib/tombolo"]).unwrap().status.success()
    );
    assert!(!cluster.exec("node-2", &["ls", "-d", "/run/tombolo"]).unwrap().status.success());
    assert!(!std::path::Path::new("/run/tombolo").exists(), "a node's directory must not be the machine's");
    kubectl(cluster, "delete pod privileged --timeout=30s");
}

fn links_fail_and_recover(playground: &Playground) {
    let west = playground.cluster("west").unwrap();
    let test = std::fs::read_dir(tombolo_playground::layout::checkout().join("target/playground-cache"))
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with("testpod-"))
        .unwrap()
        .display()
        .to_string();
    let mut echo =
        west.command("node-1", &[test.clone(), "udp-echo".into(), "--port".into(), "9".into()]).unwrap();
    let mut echo = echo.stdout(Stdio::piped()).spawn().unwrap();
    BufReader::new(echo.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    for address in west.plans().map(|plan| plan.node(0)) {
        link_fails_and_recovers(playground, &test, address);
    }
    echo.kill().unwrap();
    echo.wait().unwrap();
}

/// In one family; the others fail with it.
fn link_fails_and_recovers(playground: &Playground, test: &str, address: IpAddr) {
    let east = playground.cluster("east").unwrap();
    let target = SocketAddr::new(address, 9).to_string();
    let received = || {
        let argv = [test, "udp-exchange", &target, "-n", "50", "--interval", "0", "--timeout", "200"];
        let output = east.exec("node-2", &argv).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let total = text.lines().last().unwrap();
        total.split("received=").nth(1).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(received(), 50);
    playground.link_cut("east", "west").unwrap();
    assert_eq!(received(), 0);
    playground.link_restore("west", "east").unwrap();
    assert_eq!(received(), 50);
    playground.set_link("east", "west", LinkState { loss_percent: 40, ..LinkState::default() }).unwrap();
    assert!((4..40).contains(&received()), "loss of 40 % each way");
    let started = Instant::now();
    playground.set_link("east", "west", LinkState { delay_ms: 20, ..LinkState::default() }).unwrap();
    assert_eq!(received(), 50);
    assert!(started.elapsed() > Duration::from_secs(2), "50 round trips of 40 ms");
    playground.set_link("east", "west", LinkState { mtu: Some(1280), ..LinkState::default() }).unwrap();
    assert_eq!(received(), 50);
    let route = learned_mtu(&east, address);
    assert!(route.contains("mtu 1280"), "{route}");
    playground.link_restore("east", "west").unwrap();
}

/// Sends a large packet that must not be fragmented, and asks for the path MTU that the node learned.
fn learned_mtu(from: &Cluster, to: IpAddr) -> String {
    let address = to.to_string();
    let send = format!("head -c 60000 /dev/zero > /dev/tcp/{address}/10250");
    // The other end, a kubelet, refuses what it gets; the packets have been sent by then.
    from.exec("node-1", &["bash", "-c", &send]).unwrap();
    thread::sleep(Duration::from_millis(300));
    String::from_utf8(from.exec("node-1", &["ip", "route", "get", &address]).unwrap().stdout).unwrap()
}

fn components_die_and_return(cluster: &Cluster) {
    cluster.kill("node-1", "kubelet").unwrap();
    assert!(cluster.kill("node-1", "kubelet").unwrap_err().to_string().contains("not running"));
    cluster.restart("node-1", "kubelet").unwrap();
    cluster.freeze("control-plane", "kube-apiserver").unwrap();
    let frozen = cluster.kubectl(&["get", "--raw=/readyz", "--request-timeout=1s"], b"");
    cluster.thaw("control-plane", "kube-apiserver").unwrap();
    assert!(frozen.is_err(), "a frozen API server must not answer");
    cluster.restart("control-plane", "etcd").unwrap();
    let started = Instant::now();
    while !cluster.is_api_ready().unwrap() {
        assert!(started.elapsed() < Duration::from_secs(60), "the API server must recover");
        thread::sleep(Duration::from_millis(200));
    }
    assert!(cluster.kill("node-1", "etcd").unwrap_err().to_string().contains("containerd, kubelet"));
}

fn killed_up_is_cleaned_by_down(layout: &Layout, before: &Snapshot) {
    for patience in [300, 1500, 6000] {
        let mut up = start_up(layout);
        thread::sleep(Duration::from_millis(patience));
        up.kill().unwrap();
        up.wait().unwrap();
        down(layout, Progress::start()).unwrap();
        assert_clean(layout, before);
    }
}

fn interrupted_up_cleans_itself(layout: &Layout, before: &Snapshot) {
    for patience in [100, 1000, 7000] {
        interrupt_up(layout, Duration::from_millis(patience));
        assert_clean(layout, before);
    }
}

fn interrupt_up(layout: &Layout, patience: Duration) {
    let mut up = start_up(layout);
    thread::sleep(patience);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(up.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(130));
}

fn start_up(layout: &Layout) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_playground"));
    command.arg("up").env("TOMBOLO_PLAYGROUND_DIR", layout.root()).spawn().unwrap()
}

/// The kernel removes namespaces and their devices a moment after the last process.
fn assert_clean(layout: &Layout, before: &Snapshot) {
    let started = Instant::now();
    loop {
        let mut left = leftovers(layout);
        left.extend(Snapshot::take().unwrap().since(before));
        if left.is_empty() {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "left:\n{}", left.join("\n"));
        thread::sleep(Duration::from_millis(100));
    }
}

fn kubectl(cluster: &Cluster, arguments: &str) -> String {
    let words: Vec<&str> = arguments.split(' ').collect();
    String::from_utf8(cluster.kubectl(&words, b"").unwrap()).unwrap()
}
