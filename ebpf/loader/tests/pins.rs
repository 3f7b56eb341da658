//! What is left on the BPF filesystem, and what is made of it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use aya::maps::{HashMap, MapData};
use common::{ifindex, on_a_node, run};
use tombolo_abi::{AddressFlags, AddressKey, AddressValue, map};
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
fn maps_keep_their_content_unless_their_layout_changed() {
    on_a_node(|pins| {
        let key = AddressKey::new(common::ip(10, 0, 0, 1));
        let value = AddressValue::new(300, AddressFlags::NO_MASQUERADE);
        Datapath::load(pins).unwrap().maps().address().unwrap().upsert(&key, &value).unwrap();
        // Another map stands where the programs expect ENDPOINT, as after an upgrade.
        fs::rename(pins.join(map::IDENTITY), pins.join("moved")).unwrap();
        fs::remove_file(pins.join(map::ENDPOINT)).unwrap();
        fs::rename(pins.join("moved"), pins.join(map::ENDPOINT)).unwrap();
        let again = Datapath::load(pins).unwrap();
        assert_eq!(again.replaced_maps(), [map::ENDPOINT]);
        assert_eq!(again.maps().address().unwrap().get(&key).unwrap(), Some(value));
        assert_eq!(again.maps().address().unwrap().entries().unwrap(), [(key, value)]);
        assert!(again.maps().address().unwrap().delete(&key).unwrap());
        assert!(!again.maps().address().unwrap().delete(&key).unwrap());
        assert!(again.maps().endpoint().unwrap().entries().unwrap().is_empty());
        let raw = MapData::from_pin(pins.join(map::ENDPOINT)).unwrap();
        assert!(HashMap::<_, [u8; 16], [u8; 28]>::try_from(aya::maps::Map::HashMap(raw)).is_ok());
        unload(pins).unwrap();
        assert!(!pins.exists());
        unload(pins).unwrap();
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
        assert!(matches!(error, AttachError::Attach { .. }), "{error}");
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
