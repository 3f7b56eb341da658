//! What is left on the BPF filesystem, and what is made of it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{thread, time::Duration};

use common::{ifindex, on_a_node, run};
use tombolo_abi::{AddressFlags, AddressKey, AddressValue};
use tombolo_loader::{AttachError, Datapath, LoadError, PinDirError, Table, unload};

#[test]
#[ignore = "needs root; 20 s"]
fn another_filesystem_is_refused_and_left_alone() {
    on_a_node(|_| {
        let elsewhere = tempfile::tempdir().unwrap();
        let pins = elsewhere.path().join("tombolo");
        let error = Datapath::load(&pins).err().unwrap();
        assert!(matches!(error, LoadError::PinDir(PinDirError::NotBpf(_))), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!pins.exists());
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn maps_keep_their_content() {
    on_a_node(|pins| {
        let key = AddressKey::new(common::ip(10, 0, 0, 1));
        let value = AddressValue::new(300, AddressFlags::NO_MASQUERADE);
        Datapath::load(pins).unwrap().maps().address().unwrap().upsert(&key, &value).unwrap();
        let again = Datapath::load(pins).unwrap();
        assert_eq!(again.generation_before(), None);
        assert_eq!(again.maps().address().unwrap().get(&key).unwrap(), Some(value));
        assert_eq!(again.maps().address().unwrap().entries().unwrap(), [(key, value)]);
        assert!(again.maps().address().unwrap().delete(&key).unwrap());
        assert!(!again.maps().address().unwrap().delete(&key).unwrap());
        unload(pins).unwrap();
        assert!(!pins.exists());
        unload(pins).unwrap();
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn all_entries_of_a_large_map_are_read() {
    on_a_node(|pins| {
        let mut map = Datapath::load(pins).unwrap().maps().address().unwrap();
        let mut wanted = Vec::new();
        for number in 0..20_000_u32 {
            let [_, b, c, d] = number.to_be_bytes();
            let entry = (
                AddressKey::new(common::ip(10, b, c, d)),
                AddressValue::new(300 + number, AddressFlags::NO_MASQUERADE),
            );
            map.upsert(&entry.0, &entry.1).unwrap();
            wanted.push(entry);
        }
        let mut read = map.entries().unwrap();
        read.sort_unstable();
        assert!(read == wanted, "{} of {} entries, or others", read.len(), wanted.len());
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn an_index_that_another_device_has_now_is_attached_anew() {
    on_a_node(|pins| {
        let datapath = Datapath::load(pins).unwrap();
        run("ip link add tmb0 type veth peer name tmb1");
        let index = ifindex("tmb0");
        datapath.attach_device(index).unwrap();
        run("ip link del tmb0");
        let error = datapath.attach_device(index).unwrap_err();
        assert!(matches!(error, AttachError::Device { .. }), "{error}");
        run(&format!("ip link add tmb2 index {index} type veth peer name tmb3"));
        datapath.attach_device(index).unwrap();
        assert_eq!(datapath.attached_devices().unwrap(), [index]);
        datapath.detach(index).unwrap();
        datapath.detach(index).unwrap();
        assert!(datapath.attached_devices().unwrap().is_empty());
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_pods_programs_are_replaced_in_place_and_go_with_its_device() {
    on_a_node(|pins| {
        let datapath = Datapath::load(pins).unwrap();
        run("ip link add tmb0 type veth peer name tmb1");
        let index = ifindex("tmb0");
        let shown = |direction: &str| run(&format!("tc filter show dev tmb0 {direction}"));
        for _ in 0..2 {
            datapath.attach_pod(index).unwrap();
            for (direction, program) in [("ingress", "pod_egress"), ("egress", "pod_ingress")] {
                let shown = shown(direction);
                assert_eq!(shown.matches("direct-action").count(), 1, "{shown}");
                assert!(shown.contains(program), "{shown}");
            }
        }
        let before = shown("ingress");
        Datapath::load(pins).unwrap().attach_pod(index).unwrap();
        assert_ne!(shown("ingress"), before, "the programs of the next agent");
        assert!(datapath.attached_devices().unwrap().is_empty());
        run("ip link del tmb0");
        let error = datapath.attach_pod(index).unwrap_err();
        assert!(matches!(error, AttachError::Filter { .. }), "{error}");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn what_others_remove_is_put_back() {
    on_a_node(|pins| {
        let datapath = Datapath::load(pins).unwrap();
        run("ip link add tmb0 type veth peer name tmb1");
        run("ip link add eth0 type veth peer name eth1");
        let (pod, device) = (ifindex("tmb0"), ifindex("eth0"));
        datapath.attach_pod(pod).unwrap();
        for (removal, lacking) in [
            ("tc filter del dev tmb0 ingress", 1),
            ("tc filter del dev tmb0 egress", 1),
            ("tc qdisc del dev tmb0 clsact", 2),
        ] {
            assert_eq!(datapath.restore_pod(pod).unwrap(), 0, "before {removal}");
            run(removal);
            assert_eq!(datapath.restore_pod(pod).unwrap(), lacking, "{removal}");
            for (direction, program) in [("ingress", "pod_egress"), ("egress", "pod_ingress")] {
                let shown = run(&format!("tc filter show dev tmb0 {direction}"));
                assert!(shown.matches("direct-action").count() == 1 && shown.contains(program), "{shown}");
            }
        }
        run("ip link del tmb0");
        let error = datapath.restore_pod(pod).unwrap_err();
        assert!(matches!(error, AttachError::Filter { .. }), "{error}");

        assert_eq!(datapath.attach_device(device).unwrap(), 2);
        assert_eq!(datapath.attach_device(device).unwrap(), 0);
        std::fs::remove_file(pins.join(format!("links/net_egress-{device}"))).unwrap();
        // The kernel frees a link that nobody has any more a moment later.
        let again = || datapath.attach_device(device).ok();
        let put_back = (0..100).find_map(|_| {
            again().or_else(|| {
                thread::sleep(Duration::from_millis(20));
                None
            })
        });
        assert_eq!(put_back, Some(1));
        assert_eq!(datapath.attach_device(device).unwrap(), 0);
    });
}
