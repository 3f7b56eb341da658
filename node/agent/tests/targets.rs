//! Routes and devices as the kernel has them, and the reconciler over them. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at what it did not expect")]

use std::{
    collections::BTreeMap,
    future::Future,
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use tokio::{runtime::Handle, time::timeout};
use tombolo_model::{ClusterId, NodeRecord, Prefix, Record};
use tombolo_node::{
    engine::{Engine, TableLane},
    intent::Intent,
    netlink::{self, Netlink},
    targets::Routes,
    underlay,
};
use tombolo_node_core::{
    endpoints::Endpoints,
    policy::SelectorBits,
    reconcile::Target,
    routes::NextHop,
    state::{Change, OwnNode, State, TableId},
};

/// Runs a test in a network namespace that vanishes with it, with devices `eth0` (192.0.2.1/24) and `wg0`.
fn on_a_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let node = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes network namespaces: run it as root");
        for command in [
            "link set lo up",
            "link add eth0 type veth peer name eth0-peer",
            "link add wg0 type veth peer name wg0-peer",
            "address add 192.0.2.1/24 dev eth0",
            "link set eth0 up",
            "link set eth0-peer up",
            "link set wg0 up",
            "link set wg0-peer up",
            "route add default via 192.0.2.254",
        ] {
            ip(command);
        }
        // Threads of the runtime are made by this one, and so are in its namespace.
        tokio::runtime::Runtime::new().unwrap().block_on(test());
    });
    if let Err(panic) = node.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(command: &str) -> String {
    let output = Command::new("ip").args(command.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn routes_target() -> Routes {
    let netlink = Netlink::new().unwrap();
    Routes::new(netlink, Handle::current(), "wg0".into(), vec!["192.0.2.1".parse().unwrap()])
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

#[test]
#[ignore = "needs root; 20 s"]
fn routes_are_made_listed_and_removed() {
    on_a_node(|| async {
        let mut routes = routes_target();
        tokio::task::spawn_blocking(move || {
            let wanted = BTreeMap::from([
                (prefix("10.1.1.0/24"), NextHop::Gateway("192.0.2.2".parse().unwrap())),
                (prefix("10.2.0.0/16"), NextHop::Tunnel),
            ]);
            for (key, value) in &wanted {
                routes.update(key, value).unwrap();
                routes.update(key, value).unwrap();
            }
            assert_eq!(routes.list().unwrap(), wanted);
            let printed = ip("route show proto 178");
            assert!(printed.contains("10.1.1.0/24 via 192.0.2.2 dev eth0 src 192.0.2.1"), "{printed}");
            assert!(printed.contains("10.2.0.0/16 dev wg0 scope link src 192.0.2.1"), "{printed}");
            for key in wanted.keys() {
                routes.delete(key).unwrap();
                routes.delete(key).unwrap();
            }
            assert!(ip("route show proto 178").is_empty());
            ip("link del wg0");
            let error = routes.update(&prefix("10.2.0.0/16"), &NextHop::Tunnel).unwrap_err();
            assert!(error.to_string().contains("tombolo-tunnel"), "{error}");
        })
        .await
        .unwrap();
    });
}

fn node(cluster: u16, name: &str, address: &str, pods: &str) -> Change {
    Change::Upsert(Record::Node(NodeRecord {
        cluster: ClusterId::try_from(cluster).unwrap(),
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        pod_prefixes: vec![prefix(pods)],
        zone: String::new(),
        tunnel: None,
    }))
}

#[test]
#[ignore = "needs root; 20 s"]
fn the_reconciler_heals_and_prunes_only_after_the_sync() {
    on_a_node(|| async {
        let own =
            OwnNode { cluster: ClusterId::try_from(1).unwrap(), name: "a".into(), addresses: Vec::new() };
        let state = State::new(own, Endpoints::default(), SelectorBits::default());
        let intent = Arc::new(Intent::new(state));
        // Left by an agent before: a node that may still exist.
        ip("route add 10.1.9.0/24 via 192.0.2.9 proto 178");
        ip("route add 10.3.0.0/24 via 192.0.2.9");
        let kept = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&kept);
        let lane = TableLane::new(TableId::Route, State::routes, routes_target());
        let engine = Engine::start(
            Arc::clone(&intent),
            vec![Box::new(lane)],
            Box::new(move |_| {
                *counted.lock().unwrap() += 1;
                Ok(())
            }),
            Box::new(|| Ok(())),
        )
        .unwrap();
        intent.write(|state| {
            state.begin_sync();
            state.apply(node(1, "b", "192.0.2.2", "10.1.1.0/24"));
        });
        engine.flush().await.unwrap();
        let printed = ip("route show proto 178");
        assert!(
            printed.contains("10.1.1.0/24 via 192.0.2.2") && printed.contains("10.1.9.0/24"),
            "{printed}"
        );

        intent.write(State::complete_sync);
        engine.flush().await.unwrap();
        let printed = ip("route show proto 178");
        assert!(!printed.contains("10.1.9.0/24"), "{printed}");
        assert!(ip("route").contains("10.3.0.0/24"), "routes of others are not touched");

        ip("route del 10.1.1.0/24");
        engine.observe();
        engine.flush().await.unwrap();
        assert!(ip("route show proto 178").contains("10.1.1.0/24"), "drift is healed");

        // A device that is missing is a failure that does not hold up the rest, and heals later.
        ip("link del wg0");
        intent.write(|state| {
            state.apply(node(2, "z", "198.51.100.1", "10.2.0.0/24"));
            state.apply(node(1, "c", "192.0.2.3", "10.1.2.0/24"));
        });
        engine.flush().await.unwrap();
        assert!(ip("route show proto 178").contains("10.1.2.0/24 via 192.0.2.3"));
        assert_eq!(engine.failures().len(), 1);
        ip("link add wg0 type veth peer name wg0-peer");
        ip("link set wg0 up");
        engine.observe();
        engine.flush().await.unwrap();
        assert!(ip("route show proto 178").contains("10.2.0.0/24 dev wg0"));
        assert!(engine.failures().is_empty());
        assert_eq!(*kept.lock().unwrap(), 1, "the bits are kept when they change");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn pods_come_and_go_unnoticed() {
    on_a_node(|| async {
        let mut changes = netlink::watch("tmb").unwrap();
        let soon = Duration::from_millis(300);
        ip("link add tmb0 type veth peer name tmb1");
        ip("route add 10.1.1.7/32 dev eth0 proto 178");
        ip("link del tmb0");
        assert!(timeout(soon, changes.recv()).await.is_err(), "woken for a pod");
        for command in ["route add 10.1.1.0/24 dev eth0 proto 178", "link add other type veth peer name x"] {
            ip(command);
            timeout(soon, changes.recv()).await.expect(command);
        }
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn the_underlay_is_found_or_asked_for() {
    on_a_node(|| async {
        let netlink = Netlink::new().unwrap();
        let node = ["192.0.2.1".parse().unwrap()];
        let found = underlay::find(&netlink, &[], "tombolo-wg0", &node).await.unwrap();
        assert_eq!(found.devices.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["eth0"]);
        assert_eq!((found.mtu(), found.addresses.contains(&node[0])), (1500, true));
        let error = underlay::find(&netlink, &["eth7".into()], "tombolo-wg0", &node).await.unwrap_err();
        assert!(error.to_string().contains("eth7"), "{error}");
        ip("route del default");
        let error = underlay::find(&netlink, &[], "tombolo-wg0", &["198.51.100.9".parse().unwrap()])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("devices"), "{error}");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn all_devices_that_routes_lead_to_are_judged() {
    on_a_node(|| async {
        let netlink = Netlink::new().unwrap();
        let node = ["192.0.2.1".parse().unwrap()];
        let others = async || {
            let found = underlay::find(&netlink, &[], "mesh0", &node).await.unwrap();
            assert_eq!(found.mtu(), 1500, "what pods can send does not depend on them");
            found.others.into_iter().map(|link| link.name).collect::<Vec<_>>()
        };
        for name in ["storage0", "mesh0", "idle0"] {
            ip(&format!("link add {name} type veth peer name {name}p"));
            ip(&format!("link set {name} mtu 1400 up"));
        }
        assert!(others().await.is_empty());
        ip("route add 198.51.100.0/24 dev storage0 table 77");
        ip("route add 198.18.0.0/24 dev mesh0");
        assert_eq!(others().await, ["storage0"]);
        ip("link set storage0 down");
        assert!(others().await.is_empty());
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn listings_at_the_same_time_wait_for_each_other() {
    on_a_node(|| async {
        for i in 0..200 {
            ip(&format!("route add 198.18.{i}.0/24 via 192.0.2.254"));
        }
        let netlink = Netlink::new().unwrap();
        let listings = (0..32).map(|_| {
            let netlink = netlink.clone();
            tokio::spawn(async move { netlink.routes().await.map(|routes| routes.len()) })
        });
        for listing in listings.collect::<Vec<_>>() {
            assert!(listing.await.unwrap().expect("no listing is refused") > 200);
        }
    });
}
