//! The plugin binary and the agent's CNI server together, on a node in a network namespace. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at what it did not expect")]

mod faults;
mod world;

use std::{net::SocketAddr, thread};

use serde_json::{Value, json};
use tombolo_cni::failure::code;
use world::{NODE, NODE_V6, PodNetns, ask, error, ip, on_a_node, pod_devices};

#[test]
#[ignore = "needs root; 20 s"]
fn a_pod_is_connected_and_disconnected() {
    on_a_node(|mut node| async move {
        node.start().await;
        let pod = node.pod("web");
        let result = node.add(&pod).await;
        assert_eq!(result["ips"][0]["address"], "10.99.0.2/32");
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]));
        same_links(&result, &pod);

        pod.listen("10.99.0.2:80".into()).unwrap();
        assert_eq!(ask("10.99.0.2:80").unwrap(), NODE, "from the node, with the node's address");
        let listener = std::net::TcpListener::bind((NODE, 81)).unwrap();
        thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            std::io::Write::write_all(&mut stream, peer.ip().to_string().as_bytes()).unwrap();
        });
        assert_eq!(pod.run(|| ask(&format!("{NODE}:81"))).unwrap(), "10.99.0.2");

        let mut config = node.config();
        config["prevResult"] = result;
        let output = node.call("CHECK", &pod, &config).await;
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");

        for _ in 0..2 {
            let output = node.call("DEL", &pod, &config).await;
            assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
            assert!(pod_devices().is_empty());
            assert!(!ip(&["route"]).contains("10.99."));
            assert!(!pod.run(|| ip(&["address"])).contains("10.99."));
        }
        assert!(!pod.run(|| ip(&["link"])).contains("eth0"));
    });
}

/// With IPv6 first, alone and beside IPv4: what is told to the runtime works at once.
#[test]
#[ignore = "needs root; 20 s"]
fn addresses_of_each_family_work_as_soon_as_they_are_known() {
    for prefixes in [&["fd99::/64", "10.99.0.0/24"][..], &["10.99.0.0/24", "fd99::/64"], &["fd99::/64"]] {
        on_a_node(move |mut node| async move {
            node.prefixes = prefixes;
            node.start().await;
            let pod = node.pod("web");
            let result = node.add(&pod).await;
            let (ips, routes) = (result["ips"].as_array().unwrap(), result["routes"].as_array().unwrap());
            assert_eq!((ips.len(), routes.len()), (prefixes.len(), prefixes.len()), "{result}");
            for ip in ips {
                let address = ip["address"].as_str().unwrap().split('/').next().unwrap();
                let v6 = address.contains(':');
                let (bits, gateway, default) =
                    if v6 { ("/128", "fe80::1", "::/0") } else { ("/32", "169.254.1.1", "0.0.0.0/0") };
                assert!(ip["address"].as_str().unwrap().ends_with(bits) && ip["gateway"] == gateway, "{ip}");
                assert!(routes.contains(&json!({"dst": default, "gw": gateway})), "{result}");
                let host = if v6 { NODE_V6 } else { NODE };
                let (server, client) = (SocketAddr::new(address.parse().unwrap(), 80), host.parse().unwrap());
                pod.listen(server.to_string()).unwrap();
                assert_eq!(ask(&server.to_string()).unwrap(), host, "from the node, with the node's address");
                let back = SocketAddr::new(client, 81);
                let listener = std::net::TcpListener::bind(back).unwrap();
                thread::spawn(move || {
                    let (mut stream, peer) = listener.accept().unwrap();
                    std::io::Write::write_all(&mut stream, peer.ip().to_string().as_bytes()).unwrap();
                });
                assert_eq!(pod.run(move || ask(&back.to_string())).unwrap(), address);
            }
            let mut config = node.config();
            config["prevResult"] = result;
            let output = node.call("CHECK", &pod, &config).await;
            assert!(output.status.success(), "{output:?}");
            let output = node.call("DEL", &pod, &config).await;
            assert!(output.status.success(), "{output:?}");
            assert!(!ip(&["-6", "route"]).contains("fd99:"));
        });
    }
}

/// The result names what is really there.
fn same_links(result: &Value, pod: &PodNetns) {
    let find = |text: &str, name: &Value| {
        let links: Value = serde_json::from_str(text).unwrap();
        links.as_array().unwrap().iter().find(|l| l["ifname"] == *name).cloned().unwrap()
    };
    let (host, inner) = (&result["interfaces"][0], &result["interfaces"][1]);
    for (expected, text) in [(host, ip(&["-json", "link"])), (inner, pod.run(|| ip(&["-json", "link"])))] {
        let link = find(&text, &expected["name"]);
        assert_eq!((&link["address"], &link["mtu"]), (&expected["mac"], &expected["mtu"]));
    }
    assert_eq!(inner["sandbox"], json!(pod.path));
    assert!(pod.run(|| ip(&["route"])).contains("default via 169.254.1.1 dev eth0 proto 178 mtu 1420"));
}

#[test]
#[ignore = "needs root; 20 s"]
fn results_come_in_the_version_asked_for() {
    on_a_node(|mut node| async move {
        node.start().await;
        for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = node.pod(&version.replace('.', "-"));
            let mut config = node.config();
            config["cniVersion"] = json!(version);
            let output = node.call("ADD", &pod, &config).await;
            assert!(output.status.success(), "{output:?}");
            let result: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(result["cniVersion"], version);
            assert!(result["ips"][0]["address"].as_str().unwrap().starts_with("10.99.0."), "{result}");
            if version != "0.3.0" && version != "0.3.1" {
                config["prevResult"] = result;
                let output = node.call("CHECK", &pod, &config).await;
                assert!(output.status.success(), "{output:?}");
            }
        }
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn check_finds_what_is_missing() {
    on_a_node(|mut node| async move {
        node.start().await;
        let pod = node.pod("web");
        let result = node.add(&pod).await;
        let mut config = node.config();
        config["prevResult"] = result;
        for (damage, word) in [
            (["route", "del", "default"].as_slice(), "default route"),
            (&["address", "flush", "dev", "eth0"], "address"),
            (&["link", "set", "eth0", "down"], "down"),
            (&["link", "del", "eth0"], "missing"),
        ] {
            let damage = damage.to_vec();
            pod.run(move || ip(&damage));
            let (found, msg) = error(&node.call("CHECK", &pod, &config).await);
            assert_eq!(found, u64::from(code::CHECK_FAILED), "{msg}");
            assert!(msg.contains(word), "{msg}");
        }
        let stranger = PodNetns::new("stranger");
        let (found, _) = error(&node.call("CHECK", &stranger, &config).await);
        assert_eq!(found, u64::from(code::UNKNOWN_CONTAINER));
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn gc_keeps_what_is_listed_only() {
    on_a_node(|mut node| async move {
        let manager = node.start().await;
        let (a, b) = (node.pod("a"), node.pod("b"));
        node.add(&a).await;
        node.add(&b).await;
        let mut config = node.config();
        config["cni.dev/valid-attachments"] = json!([{"containerID": "container-b", "ifname": "eth0"}]);
        let output = node.call("GC", &a, &config).await;
        assert!(output.status.success(), "{output:?}");
        let left: Vec<String> =
            manager.endpoints().iter().map(|e| e.wiring.attachment.container.clone()).collect();
        assert_eq!(left, ["container-b"]);
        assert_eq!(pod_devices().len(), 1);
        let output = node.call("STATUS", &a, &node.config()).await;
        assert!(output.status.success(), "{output:?}");
    });
}
