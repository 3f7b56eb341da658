//! Bad calls, and agents that die: one clear error each, and nothing left behind.

use std::{os::unix::fs::PermissionsExt, path::Path};

use tombolo_cni::{failure::code, queue};
use tombolo_node::pod_link;
use tombolo_node_core::endpoints::AttachmentId;

use crate::world::{PodNetns, error, ip, on_a_node, pod_devices};

#[test]
#[ignore = "needs root; 20 s"]
fn bad_calls_are_refused_and_change_nothing() {
    on_a_node(|mut node| async move {
        let manager = node.start().await;
        let pod = node.pod("web");
        let config = node.config();
        let cases = [
            (
                node.call_as("ADD", "web", "a/b", &pod.path, &config).await,
                code::INVALID_ENVIRONMENT,
                "CNI_IFNAME",
            ),
            (
                node.call_as("ADD", "web", "eth0", Path::new("/proc/0/ns/net"), &config).await,
                code::INVALID_NETNS,
                "does not exist",
            ),
            (
                node.call_as("ADD", "web", "eth0", Path::new("/etc/passwd"), &config).await,
                code::INVALID_NETNS,
                "not a network namespace",
            ),
            (
                node.call_as("ADD", "nobody", "eth0", &pod.path, &config).await,
                code::TRY_AGAIN_LATER,
                "default/nobody",
            ),
        ];
        for (output, expected, word) in cases {
            let (found, msg) = error(&output);
            assert_eq!(found, u64::from(expected), "{msg}");
            assert!(msg.contains(word), "{msg}");
        }
        assert!(pod_devices().is_empty());
        assert_eq!(manager.endpoints().iter().count(), 0);
        assert_eq!(manager.address_usage()[0].2, 0);
        let mode = std::fs::metadata(node.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only root may call");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn an_interface_that_exists_is_left_alone() {
    on_a_node(|mut node| async move {
        node.start().await;
        let pod = node.pod("web");
        pod.run(|| ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "eth9"]));
        let before = pod.run(|| ip(&["link"]));
        let (found, msg) = error(&node.call("ADD", &pod, &node.config()).await);
        assert_eq!(found, u64::from(code::INTERFACE_EXISTS), "{msg}");
        assert!(pod_devices().is_empty());
        assert_eq!(pod.run(|| ip(&["link"])), before);

        let second = node.pod("twice");
        node.add(&second).await;
        let (found, msg) = error(&node.call("ADD", &second, &node.config()).await);
        assert_eq!(found, u64::from(code::INTERFACE_EXISTS), "{msg}");
        assert_eq!(pod_devices().len(), 1);
        let output = node.call_as("ADD", "twice", "net1", &second.path, &node.config()).await;
        assert!(output.status.success(), "another interface is fine: {output:?}");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_late_failure_is_undone() {
    on_a_node(|mut node| async move {
        let manager = node.start().await;
        let pod = node.pod("web");
        *node.datapath.refuse.lock().unwrap() = true;
        let (found, msg) = error(&node.call("ADD", &pod, &node.config()).await);
        assert_eq!(found, u64::from(code::KERNEL), "{msg}");
        assert!(pod_devices().is_empty() && manager.endpoints().iter().count() == 0);
        *node.datapath.refuse.lock().unwrap() = false;
        node.add(&pod).await;
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_device_in_the_way_is_replaced() {
    on_a_node(|mut node| async move {
        node.start().await;
        let pod = node.pod("web");
        let id = AttachmentId { container: "container-web".into(), interface: "eth0".into() };
        let name = pod_link::host_interface(&id);
        ip(&["link", "add", &name, "type", "veth", "peer", "name", "x"]);
        node.add(&pod).await;
        assert_eq!(pod_devices(), [name]);
        assert!(!ip(&["link"]).contains(" x@"));
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn an_address_rests_until_the_devices_are_gone() {
    on_a_node(|mut node| async move {
        let manager = node.start().await;
        let pod = node.pod("web");
        // Each ADD comes while the kernel still works on the DEL before, as do further DELs.
        for address in ["10.99.0.2/32", "10.99.0.3/32", "10.99.0.4/32"] {
            assert_eq!(node.add(&pod).await["ips"][0]["address"], address);
            assert_eq!(pod_devices().len(), 1);
            for _ in 0..2 {
                assert!(node.call("DEL", &pod, &node.config()).await.status.success());
                assert!(pod_devices().is_empty());
            }
        }
        node.add(&pod).await;
        assert_eq!(manager.endpoints().iter().count(), 1);
        assert_eq!(manager.address_usage()[0].2, 4, "three rest");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn addresses_run_out_with_a_clear_error() {
    on_a_node(|mut node| async move {
        node.prefixes = &["10.99.0.0/30"];
        node.start().await;
        let pods: Vec<PodNetns> = (0..4).map(|n| node.pod(&format!("p{n}"))).collect();
        // The network, the gateway and the broadcast address are no pod's.
        assert_eq!(node.add(&pods[0]).await["ips"][0]["address"], "10.99.0.2/32");
        for pod in &pods[1..] {
            let (found, msg) = error(&node.call("ADD", pod, &node.config()).await);
            assert_eq!(found, u64::from(code::NO_ADDRESS), "{msg}");
            assert!(msg.contains("10.99.0.0/30"), "{msg}");
        }
        assert_eq!(pod_devices().len(), 1);
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_restarted_agent_adopts_its_pods() {
    on_a_node(|mut node| async move {
        node.start().await;
        let (a, gone) = (node.pod("a"), node.pod("gone"));
        let result = node.add(&a).await;
        node.add(&gone).await;
        node.kill().await;

        // While it is down: a pod is connected to by the kernel, a pod ends, a node loses a device, an ADD must wait.
        let (found, _) = error(&node.call("ADD", &node.pod("new"), &node.config()).await);
        assert_eq!(found, u64::from(code::TRY_AGAIN_LATER));
        a.listen("10.99.0.2:80".into()).unwrap();
        crate::world::ask("10.99.0.2:80").unwrap();
        let output = node.call("DEL", &gone, &node.config()).await;
        assert!(output.status.success(), "{output:?}");
        assert_eq!(queue::list(&node.dir.path().join("queue")).unwrap().len(), 1);
        ip(&["link", "add", "tmb0000000000a", "type", "veth", "peer", "name", "x"]);

        let manager = node.start().await;
        let left: Vec<String> = manager.endpoints().iter().map(|e| e.wiring.pod.name.clone()).collect();
        assert_eq!(left, ["a"]);
        assert_eq!(pod_devices().len(), 1, "the leftover of a killed ADD is gone");
        assert!(queue::list(&node.dir.path().join("queue")).unwrap().is_empty());
        let mut config = node.config();
        config["prevResult"] = result;
        assert!(node.call("CHECK", &a, &config).await.status.success());
        let fresh = node.pod("new");
        assert_eq!(node.add(&fresh).await["ips"][0]["address"], "10.99.0.4/32", "the released one rests");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_killed_add_is_done_again() {
    on_a_node(|mut node| async move {
        let manager = node.start().await;
        let pod = node.pod("web");
        node.add(&pod).await;
        // What a kill between the devices and the state leaves, of an ADD or a DEL: devices without state.
        node.kill().await;
        drop(manager);
        std::fs::remove_file(node.dir.path().join("run/endpoints.json")).unwrap();
        let server = node.start().await;
        assert!(pod_devices().is_empty());
        node.add(&pod).await;
        // What a reboot leaves: state without devices.
        pod.run(|| ip(&["link", "del", "eth0"]));
        node.add(&pod).await;
        assert_eq!(server.endpoints().iter().count(), 1);
        assert_eq!(pod_devices().len(), 1);
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn del_succeeds_when_the_namespace_is_gone() {
    on_a_node(|mut node| async move {
        let manager = node.start().await;
        let pod = node.pod("web");
        node.add(&pod).await;
        let path = pod.path.clone();
        drop(pod);
        for _ in 0..2 {
            let output = node.call_as("DEL", "web", "eth0", &path, &node.config()).await;
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(manager.endpoints().iter().count(), 0);
        let (found, _) = error(&node.call_as("ADD", "web", "eth0", &path, &node.config()).await);
        assert_eq!(found, u64::from(code::INVALID_NETNS));
    });
}
