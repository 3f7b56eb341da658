//! `make demo`: two real Kubernetes clusters become one mesh, step by step, with the commands that do it.

mod stage;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use tombolo_playground::layout::checkout;

use crate::stage::Stage;

/// Plays the story of the README on the playground.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// End the clusters when the story is told; without it they stay for exploring
    #[arg(long)]
    exit: bool,
}

const CLUSTERS: [&str; 2] = ["east", "west"];
/// What the capture must not find: sent as a query by every request of the story's last step.
const MARKER: &str = "tombolo-marker-6b1f0e";

fn main() -> ExitCode {
    let args = Args::parse();
    let mut stage = Stage::new(checkout(), &CLUSTERS);
    let told = tell(&mut stage);
    if let Err(error) = &told {
        let _ = writeln!(io::stderr(), "\nerror: {error:#}");
    }
    if !args.exit && told.is_ok() {
        let _ = writeln!(
            io::stdout(),
            "\nThe clusters stay: `kubectl --kubeconfig target/playground/east.kubeconfig get pods -A`.\n\
             kubectl is also in target/playground/bin. `target/debug/playground down` ends the clusters."
        );
        return ExitCode::SUCCESS;
    }
    match (told, stage.run("playground down")) {
        (Ok(()), Ok(_)) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn tell(stage: &mut Stage) -> anyhow::Result<()> {
    install(stage)?;
    connect(stage)?;
    global_service(stage)?;
    loss_of_backends(stage)?;
    policy(stage)?;
    death_of_agents(stage)?;
    ciphertext(stage)
}

fn install(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step(
        "Two clusters",
        "Each has an API server, etcd, controllers, a scheduler, CoreDNS and two nodes with kubelet and containerd,\n\
         in network namespaces of this machine. There is no kube-proxy and no network plugin: nodes are not ready.",
    )?;
    stage.run("playground up --clusters 2 --nodes 2 --cni none")?;
    stage.run("playground load-image target/images/node.tar")?;
    stage.run("playground load-image target/images/clustermesh.tar")?;
    stage.step(
        "Install tombolo",
        "One command per cluster drives helm with the chart that the binary carries. The agents bring pod network,\n\
         service load balancing and policy in eBPF; the nodes become ready.",
    )?;
    for (i, cluster) in CLUSTERS.iter().enumerate() {
        stage.run(&format!(
            "tombolo install --context {cluster} --cluster-name {cluster} --cluster-id {}",
            i + 1
        ))?;
    }
    for cluster in CLUSTERS {
        stage.until(&format!("kubectl --context {cluster} get nodes"), |ok, text| {
            ok && text.matches(" Ready").count() == 2
        })?;
        stage.run(&format!("tombolo status --wait --context {cluster}"))?;
    }
    Ok(())
}

fn connect(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step(
        "Connect them",
        "The first cluster makes a one-time token, the second one joins with it. Their daemons then hold a session\n\
         over QUIC in which each proves who it is, and agree on members by Raft.",
    )?;
    stage.run("tombolo connect --context east --destination-context west")?;
    stage
        .until("tombolo mesh status --context west", |ok, text| ok && text.matches(" active").count() == 2)?;
    Ok(())
}

fn global_service(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step(
        "A global service",
        "The same service in both clusters, annotated as global. A client in west is answered by both in turn.",
    )?;
    for cluster in CLUSTERS {
        stage.run(&format!("kubectl --context {cluster} create namespace demo --dry-run=client -o yaml | kubectl --context {cluster} apply -f -"))?;
        stage.run(&format!(
            "kubectl --context {cluster} -n demo create configmap cluster --from-literal=name={cluster}"
        ))?;
        stage.run(&format!("kubectl --context {cluster} apply -f deploy/examples/demo/echo.yaml -f deploy/examples/demo/client.yaml"))?;
    }
    for cluster in CLUSTERS {
        stage.run(&format!(
            "kubectl --context {cluster} -n demo rollout status deployment/echo --timeout=60s"
        ))?;
        stage.run(&format!(
            "kubectl --context {cluster} -n demo wait pod/client --for=condition=Ready --timeout=60s"
        ))?;
    }
    stage.until(
        "kubectl --context west -n demo exec client -- /bin/testpod get http://echo.demo.svc.cluster.local/ -n 12",
        |ok, text| ok && CLUSTERS.iter().all(|c| text.contains(c)),
    )?;
    Ok(())
}

fn loss_of_backends(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step(
        "One cluster's pods go away",
        "A client in west asks ten times a second while west loses all its pods. Not one request fails: east answers.",
    )?;
    let client = stage.start(
        "kubectl --context west -n demo exec client -- /bin/testpod get http://echo.demo.svc.cluster.local/ -n 120 --interval 100",
    )?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    stage.run("kubectl --context west -n demo scale deployment/echo --replicas=0")?;
    let text = stage.finish(client, 3)?;
    anyhow::ensure!(text.contains("east"), "east never answered");
    Ok(())
}

fn policy(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step(
        "A policy across clusters",
        "The service in east lets in clients of cluster east only. The same client in west, with the same labels, is\n\
         stopped: an identity belongs to its cluster, and the tunnel proves where a packet comes from.",
    )?;
    stage.run("cat deploy/examples/demo/policy.yaml")?;
    stage.run("kubectl --context east apply -f deploy/examples/demo/policy.yaml")?;
    let get =
        "-n demo exec client -- /bin/testpod get http://echo.demo.svc.cluster.local/ -n 3 --timeout 1000";
    stage.until(&format!("kubectl --context west {get}"), |_, said| said.contains("requests=3 failed=3"))?;
    stage.run(&format!("kubectl --context east {get}"))?;
    let drops = stage.run("tombolo bpf drops list --context east")?;
    anyhow::ensure!(drops.contains("policy-denied"), "nothing was dropped by the policy");
    stage.run("kubectl --context east delete -f deploy/examples/demo/policy.yaml")?;
    stage.until(&format!("kubectl --context west {get}"), |ok, _| ok)?;
    Ok(())
}

fn death_of_agents(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step(
        "All agents are killed under a running transfer",
        "Programs, maps and the tunnel live without the agents. A stream from west to east runs on, byte by byte.",
    )?;
    for cluster in CLUSTERS {
        let what = if cluster == "east" { "" } else { " -l '!app'" };
        stage.run(&format!("kubectl --context {cluster} apply -f deploy/examples/demo/stream.yaml{what}"))?;
    }
    stage.run("kubectl --context east -n demo wait pod/sink --for=condition=Ready --timeout=60s")?;
    let stream = stage.start(
        "kubectl --context west -n demo exec client -- /bin/testpod stream sink.demo.svc.cluster.local:9000 -n 750",
    )?;
    std::thread::sleep(std::time::Duration::from_secs(3));
    // The nodes of a playground share the machine's process table.
    stage.run("pkill -9 -x tombolo-node")?;
    stage.finish(stream, 3)?;
    for cluster in CLUSTERS {
        stage.run(&format!("tombolo status --wait --context {cluster}"))?;
    }
    Ok(())
}

fn ciphertext(stage: &mut Stage) -> anyhow::Result<()> {
    stage.step(
        "What is seen on the wire",
        "A capture on the link between the clusters, while requests with a known word cross it: WireGuard and QUIC,\n\
         and never the word.",
    )?;
    let capture = stage.start(
        "playground exec underlay -- timeout --preserve-status 6 tcpdump -i any -n -s 0 -w $PWD/target/playground/wire.pcap",
    )?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    stage.run(&format!(
        "kubectl --context west -n demo exec client -- /bin/testpod get 'http://echo.demo.svc.cluster.local/{MARKER}' -n 20"
    ))?;
    stage.finish(capture, 2)?;
    stage.run("tcpdump -n -r target/playground/wire.pcap 'src net 10.11.0.0/16 and dst net 10.10.0.0/16' 2>/dev/null | head -n 5")?;
    let (_, count) = stage.quietly(&format!("grep -c {MARKER} target/playground/wire.pcap"))?;
    stage.run(&format!("grep -c {MARKER} target/playground/wire.pcap || true"))?;
    anyhow::ensure!(count.trim() == "0", "the word was found on the wire");
    Ok(())
}
