//! What the programs do on devices of other kinds than Ethernet.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{io::Write, net::Ipv4Addr};

use common::{
    Namespace, ifindex, ip,
    node::{NODE, Node},
    on_a_node, run,
    talk::{ask_tcp, ask_udp, ping, serve_tcp, serve_udp},
    tun::{carry, tun},
};
use tombolo_abi::{Direction, DropReason, EndpointFlags, Metric, v4_mapped};
use tombolo_fixture::udp;
use tombolo_loader::drops;

/// A host that is reached through a device without Ethernet header only.
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

#[test]
#[ignore = "needs root; 20 s"]
fn a_device_without_ethernet_header_is_judged_as_any_other() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let near = tun("ppp0");
        run(&format!("ip route add {FAR}/32 dev ppp0 src {NODE}"));
        node.datapath.attach_device(ifindex("ppp0")).unwrap();
        let host = Namespace::new();
        // It knows a way to the node, and none to pods.
        let far = host.within(|| {
            let far = tun("ppp0");
            run(&format!("ip addr add {FAR}/32 dev ppp0"));
            run(&format!("ip route add {NODE}/32 dev ppp0"));
            serve_tcp(80);
            serve_udp(53);
            far
        });
        carry(&near, &far);
        let mut into_node = near.try_clone().unwrap();
        carry(&far, &near);

        // Pods are behind the node's address, and get their answers.
        assert_eq!(node.a.namespace.within(|| ask_udp(FAR, 53)).unwrap().0, NODE.to_string());
        assert_eq!(node.a.namespace.within(|| ask_tcp(FAR, 80, 500_000)).unwrap(), NODE.to_string());
        assert_eq!(node.a.namespace.within(|| ping(FAR, 56)), Ok(()));
        assert_eq!(node.a.namespace.within(|| ping(FAR, 1380)), Ok(()), "as long as the device takes");
        assert!(node.counted(Metric::Masqueraded) > 2 && node.counted(Metric::Unmasqueraded) > 2);
        // The node itself is left alone.
        assert_eq!(ask_udp(FAR, 53).unwrap().0, NODE.to_string());

        // Who claims to be a pod of this node, or the node, is not let in.
        let spoofed = || drops(&node.datapath.maps()).unwrap()[&DropReason::SourceSpoofed];
        for (count, source) in [(1, node.b.key()), (2, v4_mapped(NODE.octets()))] {
            into_node.write_all(&udp((source, 1000), (node.a.key(), 2000))[14..]).unwrap();
            assert_eq!(spoofed().get(Direction::Ingress).packets(), count);
        }
        // Others are, where no rule says otherwise, without passing the stack.
        let before = node.counted(Metric::ToPod);
        into_node.write_all(&udp((ip(203, 0, 113, 9), 1000), (node.a.key(), 2000))[14..]).unwrap();
        assert_eq!(node.counted(Metric::ToPod), before + 1);
    });
}
