//! Two nodes of two clusters with a device without Ethernet header between them, as the tunnel is one.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use common::{
    Namespace, Pod, ifindex, on_a_node, run,
    talk::{ask_tcp, ask_udp, serve_tcp, serve_udp},
    tun::{carry, tun},
};
use tombolo_abi::{
    AddressFlags, Bitmap, Direction, DropReason, EndpointFlags, Metric, PolicyKey, PolicyValue, identity,
    v4_mapped,
};
use tombolo_fixture::{config, set_owner, set_prefix, set_service};
use tombolo_loader::{Datapath, Table, drops, metrics};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// One end: a node with a pod and a tunnel device.
struct Side {
    datapath: Datapath,
    pod: Pod,
    tunnel: File,
}

/// Makes a side in the namespace of the calling thread; `x` tells its addresses from the other's.
fn side(pins: &Path, x: u8, other: u8, flags: EndpointFlags) -> Side {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    let node = Ipv4Addr::new(192, 168, 7, x);
    run(&format!("ip addr add {node}/32 dev lo"));
    let tunnel = tun("wg0");
    run(&format!("ip route add 10.{other}.0.0/24 dev wg0"));
    run(&format!("ip route add 192.168.7.{other}/32 dev wg0"));
    let datapath = Datapath::load(pins).unwrap();
    let index = ifindex("wg0");
    datapath.maps().set_config(&config(v4_mapped(node.octets()), index)).unwrap();
    set_owner(&datapath, v4_mapped(node.octets()), identity::HOST, AddressFlags::HOST).unwrap();
    set_owner(&datapath, common::ip(192, 168, 7, other), identity::REMOTE_NODE, AddressFlags::TUNNEL)
        .unwrap();
    set_owner(&datapath, common::ip(10, other, 0, 1), identity_of(other), AddressFlags::TUNNEL).unwrap();
    set_prefix(&datapath, common::ip(10, other, 0, 0), 120, identity::UNKNOWN, AddressFlags::TUNNEL).unwrap();
    datapath.attach_mesh(index).unwrap();
    let pod = Pod::new(&datapath, "tmb0", Ipv4Addr::new(10, x, 0, 1), 1, flags);
    Side { datapath, pod, tunnel }
}

fn identity_of(x: u8) -> u32 {
    u32::from(x) << 20 | 300
}

#[test]
#[ignore = "needs root; 20 s"]
fn clusters_reach_each_other_through_the_tunnel() {
    on_a_node(|pins| {
        let east = side(&pins.join("../east"), 8, 9, EndpointFlags::NONE);
        let west_node = Namespace::new();
        let west_pins: PathBuf = pins.join("../west");
        let west = west_node.within(move || side(&west_pins, 9, 8, EndpointFlags::INGRESS_ENFORCED));
        carry(&east.tunnel, &west.tunnel);
        carry(&west.tunnel, &east.tunnel);
        let (a, b) = (east.pod.address, west.pod.address);
        west.pod.namespace.within(|| serve_tcp(8080));
        west.pod.namespace.within(|| serve_udp(5353));
        set_service(&east.datapath, 1, (v4_mapped(VIP.octets()), 80, 6), &[(west.pod.key(), 8080)]).unwrap();

        assert!(east.pod.namespace.within(move || ask_tcp(b, 8080, 10)).is_err(), "no rule lets it in");
        let denied = drops(&west.datapath.maps()).unwrap()[&DropReason::PolicyDenied];
        assert!(denied.get(Direction::Ingress).packets() > 0);

        // Selector 5 matches the identity that the pod has in the other cluster.
        let mut five = Bitmap::EMPTY;
        five.set(5);
        west.datapath.maps().identity().unwrap().upsert(&identity_of(8), &five).unwrap();
        let rule = PolicyKey::any(1, Direction::Ingress);
        west.datapath.maps().policy().unwrap().upsert(&rule, &PolicyValue::new(five, Bitmap::EMPTY)).unwrap();

        // The pods' devices take larger packets than the tunnel, and are told so.
        assert_eq!(east.pod.namespace.within(move || ask_tcp(b, 8080, 500_000)).unwrap(), a.to_string());
        assert_eq!(east.pod.namespace.within(move || ask_udp(b, 5353)).unwrap().0, a.to_string());
        assert_eq!(east.pod.namespace.within(|| ask_tcp(VIP, 80, 500_000)).unwrap(), a.to_string());
        let counted = metrics(&west.datapath.maps()).unwrap();
        assert!(counted[&Metric::FromTunnel].packets() > 10 && counted[&Metric::ToPod].packets() > 10);
        assert!(metrics(&east.datapath.maps()).unwrap()[&Metric::ToTunnel].packets() > 10);

        // The node itself has another identity, which the rule does not name.
        assert!(ask_tcp(b, 8080, 10).is_err());
        west.datapath
            .maps()
            .policy()
            .unwrap()
            .upsert(&rule, &PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY))
            .unwrap();
        assert_eq!(ask_tcp(b, 8080, 100_000).unwrap(), "192.168.7.8");
    });
}
