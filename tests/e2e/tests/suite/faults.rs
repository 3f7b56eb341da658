//! What runs goes on while parts of the cluster die, and what comes later works too.
//!
//! One long run of traffic in cluster east, to the outside, and to and from west, over which the faults of a table are
//! played. Pairs that a policy keeps apart are kept apart throughout.

mod acts;

use std::{
    fmt::Write as _,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tombolo_e2e::{Bounds, Class, Cluster, Recording, Scope, Traffic, UNHARMED, Window, say, url};

/// A fault, and how much harm each flow of a class may take from the start of the fault until new pods work again.
struct Fault {
    name: &'static str,
    local: Bounds,
    outside: Bounds,
    between: Bounds,
    act: acts::Act,
}

/// A fault that nothing may be harmed by.
const fn harmless(name: &'static str, act: acts::Act) -> Fault {
    Fault { name, local: UNHARMED, outside: UNHARMED, between: UNHARMED, act }
}

/// A fault that may harm what goes to and comes from another cluster, so much.
const fn between(name: &'static str, lost: u64, longest_ms: u64, act: acts::Act) -> Fault {
    let bounds = Bounds { lost, longest: Duration::from_millis(longest_ms) };
    Fault { name, local: UNHARMED, outside: UNHARMED, between: bounds, act }
}

/// To add a fault, add a line; the seconds of the test below are those of all lines together.
const FAULTS: &[Fault] = &[
    harmless("agents are killed", acts::AGENTS_KILLED),
    harmless("agents are frozen for 10 s, then killed", acts::AGENTS_FROZEN),
    // Without its process the tunnel carries nothing; one handshake later it goes on.
    between("tunnels are killed", 8, 5_000, acts::TUNNELS_KILLED),
    harmless("the leading daemon is killed", acts::LEADER_KILLED),
    harmless("etcd is away for 5 s", acts::ETCD_AWAY),
    harmless("containerd restarts", acts::CONTAINERD_RESTARTS),
    harmless("kubelet restarts", acts::KUBELET_RESTARTS),
    harmless("the link between the clusters has a delay of 40 ms for 8 s", acts::LINK_DELAYED),
    // Both directions lose, so about four of a hundred exchanges. TCP repeats a lost first packet after a second.
    between("the link between the clusters loses 2 % for 8 s", 30, 6_000, acts::LINK_LOSES),
    harmless("the link between the clusters has an MTU of 1400 for 8 s", acts::LINK_NARROW),
];

#[tokio::test]
#[ignore = "needs 2 clusters, alone; 220 s"]
async fn nothing_that_runs_is_harmed() {
    let east = Cluster::attach("east").await.unwrap();
    let here = east.scope("fault").await.unwrap();
    let away = Cluster::attach("west").await.unwrap().named_scope(&here.namespace).await.unwrap();
    let traffic = Traffic::start(&here, &away).await.unwrap();
    let mut windows = Vec::new();
    for (number, fault) in FAULTS.iter().enumerate() {
        let start = Instant::now();
        play(&here, &traffic, number, fault).await.with_context(|| fault.name).unwrap();
        windows.push(Window::last(start.elapsed()));
        say(&format!("{}: {:.1?}", fault.name, start.elapsed()));
    }
    let recording = traffic.finish().await.unwrap();
    say(&table(&recording, &windows));
    let violations: Vec<_> =
        FAULTS.iter().zip(&windows).flat_map(|(fault, window)| judge(&recording, fault, *window)).collect();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}

/// Lets a fault happen; afterwards new pods on both nodes must connect, in the cluster and to the other one.
async fn play(here: &Scope, traffic: &Traffic<'_>, number: usize, fault: &Fault) -> anyhow::Result<()> {
    (fault.act)(&here.cluster).await?;
    newcomers(here, number, [&traffic.service, &traffic.remote]).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

fn judge(recording: &Recording, fault: &Fault, window: Window) -> Vec<String> {
    let classes =
        [(Class::Local, fault.local), (Class::Outside, fault.outside), (Class::Between, fault.between)];
    let found = classes.into_iter().flat_map(|(class, bounds)| recording.violations(class, window, bounds));
    found.map(|violation| format!("{}: {violation}", fault.name)).collect()
}

/// The worst of each fault, so that a bound that is never nearly reached is seen.
fn table(recording: &Recording, windows: &[Window]) -> String {
    let mut text = format!("the machine itself paused {} times\n", recording.shared.len());
    for (fault, window) in FAULTS.iter().zip(windows) {
        let _ = writeln!(text, "{}:", fault.name);
        for class in [Class::Local, Class::Outside, Class::Between] {
            let _ = writeln!(text, "  {:<8} {}", format!("{class:?}"), recording.worst(class, *window));
        }
    }
    text
}

/// Pods that start after a fault, on every node: they reach the services, and are reached.
async fn newcomers(scope: &Scope, number: usize, services: [&[IpAddr]; 2]) -> anyhow::Result<()> {
    let mut started: Vec<String> = Vec::new();
    for (i, node) in scope.cluster.nodes().await?.iter().enumerate() {
        // The name by which the policy in front of the servers admits them.
        let labels = serde_json::json!({"nodeName": node, "labels": {"app": "near"}});
        let name = format!("late-{number}-{i}");
        scope.pod_with(&name, &["http", "--port", "8080"], labels).await?;
        for &address in services.into_iter().flatten() {
            let get = ["get", &url(address, 8080), "-n", "5"];
            scope.exec(&name, &get).await?.ok().context("from a new pod")?;
        }
        for own in scope.urls(&name, 8080).await? {
            for other in &started {
                scope.exec(other, &["get", &own, "-n", "5"]).await?.ok().context("to a new pod")?;
            }
        }
        started.push(name);
    }
    ensure!(started.len() > 1, "one node is too few");
    Ok(())
}
