//! Real sockets through real veths: pods, node and the outside, each in a network namespace.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeSet,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

use common::{
    Cgroup, ifindex,
    link::{send_frame, tagged},
    mac,
    node::{NODE, Node, OUTSIDE, VIP},
    on_a_node,
    talk::{PATIENCE, ask_tcp, ask_udp, connect, connect_from, ping, serve_named_udp, serve_tcp, serve_udp},
};
use tombolo_abi::{
    Bitmap, Direction, DropReason, EndpointFlags, Metric, NatPorts, PolicyKey, PolicyValue, v4_mapped,
};
use tombolo_fixture::{config_with_ports, set_service, udp};
use tombolo_loader::{Datapath, Table, drops, metrics};

#[test]
#[ignore = "needs root; 20 s"]
fn pods_node_and_outside_reach_each_other() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let (a, b) = (node.a.address, node.b.address);
        node.b.namespace.within(|| serve_tcp(8080));
        node.b.namespace.within(|| serve_udp(5353));
        node.outside.within(|| serve_tcp(80));
        node.outside.within(|| serve_udp(53));
        serve_tcp(6443);
        // Between pods, megabytes in segments that only the receiver splits.
        assert_eq!(node.a.namespace.within(move || ask_tcp(b, 8080, 4_000_000)).unwrap(), a.to_string());
        assert_eq!(node.a.namespace.within(move || ask_udp(b, 5353)).unwrap().0, a.to_string());
        assert!(node.counted(Metric::ToPod) > 10);
        // Pod to node, node to pod.
        assert_eq!(node.a.namespace.within(|| ask_tcp(NODE, 6443, 100_000)).unwrap(), a.to_string());
        assert_eq!(ask_tcp(b, 8080, 100_000).unwrap(), NODE.to_string());
        // To the outside under the node's address.
        assert_eq!(node.a.namespace.within(|| ask_tcp(OUTSIDE, 80, 4_000_000)).unwrap(), NODE.to_string());
        assert_eq!(node.a.namespace.within(|| ask_udp(OUTSIDE, 53)).unwrap().0, NODE.to_string());
        assert!(node.counted(Metric::Masqueraded) > 2 && node.counted(Metric::Unmasqueraded) > 2);
        assert!(node.counted(Metric::ToUnderlay) > 2);
        // Pings, whole and in fragments.
        for len in [56, 4000] {
            for to in [b, NODE, OUTSIDE] {
                assert_eq!(node.a.namespace.within(move || ping(to, len)), Ok(()), "{len} bytes to {to}");
            }
            assert_eq!(ping(b, len), Ok(()));
        }
        // A closed port is refused at once, also through all translations: the error finds its way.
        let refused = node.a.namespace.within(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.connect((OUTSIDE, 9)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 9]).unwrap_err().kind()
        });
        assert_eq!(refused, io::ErrorKind::ConnectionRefused);
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn services_are_translated_per_packet() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let vip = v4_mapped(VIP.octets());
        node.b.namespace.within(|| serve_tcp(8080));
        node.b.namespace.within(|| serve_udp(5353));
        node.a.namespace.within(|| serve_tcp(8081));
        node.outside.within(|| serve_tcp(80));
        serve_tcp(6443);
        set_service(&node.datapath, 1, (vip, 80, 6), &[(node.b.key(), 8080)]).unwrap();
        set_service(&node.datapath, 2, (vip, 53, 17), &[(node.b.key(), 5353)]).unwrap();
        set_service(&node.datapath, 3, (vip, 81, 6), &[(node.a.key(), 8081)]).unwrap();
        set_service(&node.datapath, 4, (vip, 443, 6), &[(v4_mapped(NODE.octets()), 6443)]).unwrap();
        set_service(&node.datapath, 5, (vip, 82, 6), &[(v4_mapped(OUTSIDE.octets()), 80)]).unwrap();
        let a = node.a.address.to_string();
        assert_eq!(node.a.namespace.within(|| ask_tcp(VIP, 80, 1_000_000)).unwrap(), a);
        let (seen_as, from) = node.a.namespace.within(|| ask_udp(VIP, 53)).unwrap();
        assert_eq!((seen_as, from), (a.clone(), SocketAddr::from((VIP, 53))));
        // To itself, to the node, to the outside.
        assert_eq!(node.a.namespace.within(|| ask_tcp(VIP, 81, 1_000_000)).unwrap(), "169.254.1.1");
        assert_eq!(node.a.namespace.within(|| ask_tcp(VIP, 443, 100_000)).unwrap(), a);
        assert_eq!(node.a.namespace.within(|| ask_tcp(VIP, 82, 100_000)).unwrap(), NODE.to_string());
        assert!(node.counted(Metric::ServiceTranslated) > 5 && node.counted(Metric::ReplyTranslated) > 5);
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn one_port_reaches_a_backend_through_two_frontends_and_directly() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let (vip, b) = (v4_mapped(VIP.octets()), node.b.address);
        node.b.namespace.within(|| serve_tcp(8080));
        node.b.namespace.within(|| serve_udp(5353));
        for (number, port) in [(1, 80), (2, 81)] {
            set_service(&node.datapath, number, (vip, port, 6), &[(node.b.key(), 8080)]).unwrap();
            set_service(&node.datapath, number + 2, (vip, port, 17), &[(node.b.key(), 5353)]).unwrap();
        }
        node.a.namespace.within(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4000)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            for to in [(VIP, 80), (VIP, 81), (b, 5353), (VIP, 81), (VIP, 80), (b, 5353)] {
                socket.send_to(b"?", to).unwrap();
                let (_, from) = socket.recv_from(&mut [0; 100]).unwrap();
                assert_eq!(from, SocketAddr::from(to));
            }
        });
        let answers = node.a.namespace.within(move || {
            let receivers = [(b, 8080), (VIP, 80), (VIP, 81)];
            let mut streams = receivers.map(|(to, port)| connect_from(4000, to, port).unwrap());
            for (mark, stream) in (b'a'..).zip(&mut streams) {
                stream.write_all(&[mark; 100_000]).unwrap();
            }
            streams.map(|mut stream| {
                stream.shutdown(Shutdown::Write).unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).unwrap();
                answer
            })
        });
        for (mark, answer) in (b'a'..).zip(answers) {
            let greeting = format!("{}\n", node.a.address).into_bytes();
            assert!(answer == [greeting, vec![mark; 100_000]].concat(), "{} bytes", answer.len());
        }
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn policy_stops_strangers_but_not_probes() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::INGRESS_ENFORCED);
        let b = node.b.address;
        node.b.namespace.within(|| serve_tcp(8080));
        node.a.namespace.within(|| serve_tcp(8081));
        assert!(node.a.namespace.within(move || ask_tcp(b, 8080, 10)).is_err());
        let denied = || drops(&node.datapath.maps()).unwrap()[&DropReason::PolicyDenied];
        assert!(denied().get(Direction::Ingress).packets() > 0);
        let event = node.datapath.maps().events().unwrap().next_event().unwrap();
        assert_eq!((event.destination, event.destination_port), (node.b.key(), 8080));
        assert_eq!(event.source_identity, node.a.value.identity());
        assert!(ask_tcp(b, 8080, 10).is_ok(), "the node is let in");
        let a = node.a.address;
        assert!(node.b.namespace.within(move || ask_tcp(a, 8081, 10)).is_ok(), "answers are let in");
        let rule = PolicyKey::port(2, Direction::Ingress, 6, 8080);
        let any = PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY);
        node.datapath.maps().policy().unwrap().upsert(&rule, &any).unwrap();
        assert!(node.a.namespace.within(move || ask_tcp(b, 8080, 10)).is_ok(), "allowed by rule");
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn connections_outlive_the_loader_and_its_return() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let (a, b) = (node.a.ifindex, node.b.address);
        node.b.namespace.within(|| serve_tcp(8080));
        let mut stream = node.a.namespace.within(move || connect(b, 8080)).unwrap();
        let mut greeting = vec![0; node.a.address.to_string().len() + 1];
        stream.read_exact(&mut greeting).unwrap();
        let mut exchange = |text: &[u8; 4]| {
            stream.write_all(text).unwrap();
            let mut back = [0; 4];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, text);
        };
        let Node { datapath, a: pod_a, b: pod_b, outside } = node;
        exchange(b"with");
        drop(datapath);
        exchange(b"sans");
        let again = Datapath::load(pins).unwrap();
        assert_eq!(again.generation_before(), None);
        again.attach_pod(a).unwrap();
        exchange(b"anew");
        let before = metrics(&again.maps()).unwrap()[&Metric::ToPod].packets();
        exchange(b"last");
        assert!(metrics(&again.maps()).unwrap()[&Metric::ToPod].packets() > before);
        let underlay = ifindex("eth0");
        assert_eq!(again.attached_devices().unwrap(), [underlay]);
        again.detach(underlay).unwrap();
        assert!(again.attached_devices().unwrap().is_empty());
        drop((pod_a, pod_b, outside, again));
        tombolo_loader::unload(pins).unwrap();
        assert!(!pins.exists());
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn masquerading_takes_no_port_of_a_socket_of_the_node() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        // With one port there is no luck.
        let ports = NatPorts::one(5000, 5000);
        node.datapath.maps().set_config(&config_with_ports(v4_mapped(NODE.octets()), ports)).unwrap();
        node.outside.within(|| serve_named_udp("outside", 53));
        let of_node = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 5000)).unwrap();
        assert!(node.a.namespace.within(|| ask_udp(OUTSIDE, 53)).is_err());
        let exhausted = drops(&node.datapath.maps()).unwrap()[&DropReason::SnatExhausted];
        assert_eq!(exhausted.get(Direction::Egress).packets(), 1);
        drop(of_node);
        assert_eq!(node.a.namespace.within(|| ask_udp(OUTSIDE, 53)).unwrap().0, "outside");
        // The port of a listener of TCP is the node's, too.
        node.outside.within(|| serve_tcp(80));
        let of_node = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 5000)).unwrap();
        assert!(node.a.namespace.within(|| ask_tcp(OUTSIDE, 80, 10)).is_err());
        drop(of_node);
        assert!(node.a.namespace.within(|| ask_tcp(OUTSIDE, 80, 10)).is_ok());
    });
}

/// Joins a cgroup that the test made, and is nothing by itself.
#[test]
#[ignore = "runs as a child of sockets_are_sent_to_backends"]
fn child_in_a_cgroup() {
    let cgroup = std::env::var("TEST_CGROUP").expect("started by another test");
    std::fs::write(Path::new(&cgroup).join("cgroup.procs"), std::process::id().to_string()).unwrap();
    let stream = connect(VIP, 80).unwrap();
    println!("tcp peer {}", stream.peer_addr().unwrap());
    println!("udp {:?}", ask_udp(VIP, 53).unwrap());
    println!("none {:?}", connect(VIP, 82).unwrap_err().kind());
    println!("udp none {:?}", ask_udp(VIP, 82).unwrap_err().kind());
    let kept: BTreeSet<_> = talk_on_one_socket(20).collect();
    let all: BTreeSet<_> = (0..20).flat_map(|_| talk_on_one_socket(1)).collect();
    println!("backends of one socket {}, of twenty {}", kept.len(), all.len());
    println!("mapped {:?}", connect(VIP.to_ipv6_mapped(), 80).unwrap().peer_addr().unwrap().port());
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"?", (VIP.to_ipv6_mapped(), 53)).unwrap();
    println!("udp mapped {}", socket.recv_from(&mut [0; 100]).unwrap().1);
}

/// What answers to so many datagrams of one socket begin with.
fn talk_on_one_socket(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    (0..count).map(move |_| {
        socket.send_to(b"?", (VIP, 54)).unwrap();
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from, SocketAddr::from((VIP, 54)), "the frontend answers");
        buffer[..len].to_vec()
    })
}

#[test]
#[ignore = "needs root; 20 s"]
fn sockets_are_sent_to_backends() {
    on_a_node(|pins| {
        let cgroup = Cgroup::new("tombolo-sock-lb");
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let vip = v4_mapped(VIP.octets());
        node.b.namespace.within(|| serve_tcp(8080));
        node.b.namespace.within(|| serve_udp(5353));
        set_service(&node.datapath, 1, (vip, 80, 6), &[(node.b.key(), 8080)]).unwrap();
        set_service(&node.datapath, 2, (vip, 53, 17), &[(node.b.key(), 5353)]).unwrap();
        set_service(&node.datapath, 3, (vip, 82, 6), &[]).unwrap();
        set_service(&node.datapath, 4, (vip, 82, 17), &[]).unwrap();
        let named = |name: &'static str, port| move || serve_named_udp(name, port);
        node.a.namespace.within(named("a", 5354));
        node.b.namespace.within(named("b", 5354));
        set_service(&node.datapath, 5, (vip, 54, 17), &[(node.a.key(), 5354), (node.b.key(), 5354)]).unwrap();
        node.datapath.attach_cgroup(&cgroup.0).unwrap();
        node.datapath.attach_cgroup(&cgroup.0).unwrap();
        let directory = cgroup.0.clone();
        // From the node itself, which has no other way to the address of a service.
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_in_a_cgroup", "--ignored", "--nocapture"])
            .env("TEST_CGROUP", directory)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("tcp peer 10.96.0.10:80"), "{text}");
        assert!(text.contains("10.96.0.10:53)"), "{text}");
        assert!(text.contains("\nnone ConnectionRefused"), "{text}");
        assert!(text.contains("udp none ConnectionRefused"), "{text}");
        assert!(text.contains("backends of one socket 1, of twenty 2"), "{text}");
        assert!(text.contains("mapped 80"), "{text}");
        assert!(text.contains("udp mapped [::ffff:10.96.0.10]:53"), "{text}");
        assert!(node.counted(Metric::SocketTranslated) >= 3 && node.counted(Metric::SocketRefused) == 2);
        assert_eq!(node.counted(Metric::ServiceTranslated), 0);
    });
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_tagged_frame_is_none_of_the_device_below() {
    on_a_node(|pins| {
        let node = Node::new(pins, EndpointFlags::NONE, EndpointFlags::NONE);
        let to = (node.b.key(), 9000);
        let mut frame = udp((v4_mapped(OUTSIDE.octets()), 1000), to);
        frame[..6].copy_from_slice(&mac("eth0"));
        frame[6..12].copy_from_slice(&node.outside.within(|| mac("eth0")));
        let socket = node.b.namespace.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 9000)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let plain = frame.clone();
        node.outside.within(move || send_frame("eth0", &plain)).unwrap();
        assert_eq!(socket.recv(&mut [0; 9]).unwrap(), 4);
        // What a node without a device for the VLAN does with its frames: nothing.
        let before = node.counted(Metric::ToPod);
        node.outside.within(move || send_frame("eth0", &tagged(&frame))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        assert!(socket.recv(&mut [0; 9]).is_err(), "a pod got a frame of a VLAN");
        let judged = node.counted(Metric::ToPod) - before;
        assert_eq!(judged, 0, "frames of a VLAN are judged as those of the device that carries it");
    });
}
