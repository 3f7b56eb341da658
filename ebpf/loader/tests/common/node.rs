//! A node with pods and something outside.

use std::{net::Ipv4Addr, path::Path};

use tombolo_abi::{AddressFlags, EndpointFlags, Metric, identity, v4_mapped};
use tombolo_fixture::{config, set_owner};
use tombolo_loader::{Datapath, metrics};

use super::{Namespace, Pod, ifindex, ip, run};

pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 2);
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// A node with two pods, and a machine outside that knows no way to the pods.
pub struct Node {
    pub datapath: Datapath,
    pub a: Pod,
    pub b: Pod,
    pub outside: Namespace,
}

impl Node {
    pub fn new(pins: &Path, flags_a: EndpointFlags, flags_b: EndpointFlags) -> Self {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let outside = Namespace::new();
        run(&format!("ip link add eth0 type veth peer name eth0 netns {}", outside.tid));
        run(&format!("ip addr add {NODE}/24 dev eth0"));
        run("ip link set eth0 up");
        outside.run(&format!("ip addr add {OUTSIDE}/24 dev eth0"));
        outside.run("ip link set eth0 up");
        let datapath = Datapath::load(pins).unwrap();
        datapath.maps().set_config(&config(v4_mapped(NODE.octets()), 0)).unwrap();
        set_owner(&datapath, v4_mapped(NODE.octets()), identity::HOST, AddressFlags::HOST).unwrap();
        set_owner(&datapath, ip(169, 254, 1, 1), identity::HOST, AddressFlags::HOST).unwrap();
        datapath.attach_device(ifindex("eth0")).unwrap();
        let a = Pod::new(&datapath, "tmba", Ipv4Addr::new(10, 9, 0, 1), 1, flags_a);
        let b = Pod::new(&datapath, "tmbb", Ipv4Addr::new(10, 9, 0, 2), 2, flags_b);
        Self { datapath, a, b, outside }
    }

    pub fn counted(&self, metric: Metric) -> u64 {
        metrics(&self.datapath.maps()).unwrap()[&metric].packets()
    }
}
