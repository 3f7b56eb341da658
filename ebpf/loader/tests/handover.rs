//! Traffic while the programs of one layout take over from those of another: none of it is to notice.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use common::{
    Namespace, ifindex,
    node::{NODE, Node, OUTSIDE, VIP},
    on_a_node,
    talk::{connect, serve_tcp, serve_udp},
};
use tombolo_abi::{
    Bitmap, ConfigFlags, Direction, EndpointFlags, PolicyKey, PolicyValue, protocol, v4_mapped,
};
use tombolo_fixture::{config, describe_as_another_layout, set_service};
use tombolo_loader::{Datapath, Table};

/// The longest that an exchange may take.
const LIMIT: Duration = Duration::from_millis(200);
/// How long the programs of both versions run side by side at each step.
const STEP: Duration = Duration::from_millis(150);

/// Traffic of one kind, on a thread of its own.
struct Traffic {
    what: &'static str,
    running: JoinHandle<Result<usize, String>>,
}

/// Does something again and again until told to stop: each time must succeed, in time.
fn repeat(
    namespace: &Namespace,
    stop: &Arc<AtomicBool>,
    what: &'static str,
    mut exchange: impl FnMut() -> io::Result<()> + Send + 'static,
) -> Traffic {
    let stop = Arc::clone(stop);
    let running = namespace.within(move || {
        thread::spawn(move || {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                exchange().map_err(|e| format!("number {count}: {e}"))?;
                let taken = begun.elapsed();
                if taken > LIMIT {
                    return Err(format!("number {count} took {taken:?}"));
                }
                count += 1;
                sleep(Duration::from_millis(3));
            }
            Ok(count)
        })
    });
    Traffic { what, running }
}

/// Bytes there and back on one connection.
fn stream(to: Ipv4Addr, port: u16) -> impl FnMut() -> io::Result<()> {
    let mut stream = None;
    move || {
        let stream = match &mut stream {
            Some(stream) => stream,
            none => {
                let mut new = connect(to, port)?;
                new.set_nodelay(true)?;
                let mut byte = [0];
                while byte != *b"\n" {
                    new.read_exact(&mut byte)?;
                }
                none.insert(new)
            }
        };
        stream.write_all(b"ping")?;
        stream.read_exact(&mut [0; 4])
    }
}

/// A connection each time.
fn connections(to: Ipv4Addr, port: u16) -> impl FnMut() -> io::Result<()> {
    move || connect(to, port)?.read_exact(&mut [0; 4])
}

/// A datagram and its answer, on one socket or on a new one each time.
fn datagrams(to: Ipv4Addr, port: u16, one: bool) -> impl FnMut() -> io::Result<()> {
    let mut socket = None;
    move || {
        let used = match socket.take().filter(|_| one) {
            Some(used) => used,
            None => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        };
        used.set_read_timeout(Some(Duration::from_secs(1)))?;
        used.send_to(b"?", (to, port))?;
        used.recv(&mut [0; 100])?;
        socket = Some(used);
        Ok(())
    }
}

/// What no rule allows.
fn refused(to: Ipv4Addr, port: u16) -> impl FnMut() -> io::Result<()> {
    move || {
        let to = SocketAddr::from((to, port));
        match TcpStream::connect_timeout(&to, Duration::from_millis(20)) {
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Ok(()),
            other => Err(io::Error::other(format!("{other:?}"))),
        }
    }
}

/// Greets whoever connects.
fn greet(port: u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who has gone needs no greeting.
            let _ = (&stream).write_all(b"hello");
        }
    });
}

/// Two pods with rules for both directions, a service, and servers.
fn node(pins: &Path) -> Node {
    let enforced = EndpointFlags::INGRESS_ENFORCED.with(EndpointFlags::EGRESS_ENFORCED);
    let node = Node::new(pins, enforced, enforced);
    let mut rules = node.datapath.maps().policy().unwrap();
    let mut allow = |key| rules.upsert(&key, &PolicyValue::new(Bitmap::ANY, Bitmap::EMPTY)).unwrap();
    allow(PolicyKey::any(1, Direction::Egress));
    for port in [8080, 8082, 9080, 9082] {
        allow(PolicyKey::port(2, Direction::Ingress, protocol::TCP, port));
    }
    for port in [5353, 5354] {
        allow(PolicyKey::port(2, Direction::Ingress, protocol::UDP, port));
    }
    // Ports of their own: one that is used both directly and through a service may meet one client port twice.
    set_service(&node.datapath, 1, (v4_mapped(VIP.octets()), 80, 6), &[(node.b.key(), 8082)]).unwrap();
    set_service(&node.datapath, 3, (v4_mapped(VIP.octets()), 90, 6), &[(node.b.key(), 9082)]).unwrap();
    set_service(&node.datapath, 2, (v4_mapped(VIP.octets()), 53, 17), &[(node.b.key(), 5354)]).unwrap();
    node.b.namespace.within(|| [8080, 8081, 8082].into_iter().for_each(serve_tcp));
    node.b.namespace.within(|| [5353, 5354].into_iter().for_each(serve_udp));
    node.b.namespace.within(|| [9080, 9082].into_iter().for_each(greet));
    node.outside.within(|| (serve_tcp(80), greet(90), serve_udp(53)));
    node
}

/// What the agent does, slowly.
fn hand_over(datapath: &Datapath, pods: [u32; 2], both: bool) {
    let maps = datapath.maps();
    let tell = |phase| {
        maps.set_config(&config(v4_mapped(NODE.octets()), 0).in_handover(phase)).unwrap();
    };
    if both {
        datapath.begin_handover().unwrap();
        tell(ConfigFlags::BEFORE_OPENS);
    }
    datapath.attach_device(ifindex("eth0")).unwrap();
    sleep(STEP);
    for pod in pods {
        datapath.attach_pod(pod).unwrap();
        sleep(STEP);
    }
    tell(if both { ConfigFlags::BEFORE_KNOWS } else { ConfigFlags::NONE });
    datapath.carry_new().unwrap();
    sleep(STEP);
    datapath.carry_new().unwrap();
    tell(ConfigFlags::NONE);
    datapath.end_handover().unwrap();
}

/// What went wrong while the programs of another version took over.
fn noticed(pins: &Path, both: bool) -> Vec<String> {
    let node = node(pins);
    describe_as_another_layout(&pins.join("generation-1/LAYOUT")).unwrap();
    // That takes seconds of a processor, and its copies of the maps are old when it is done.
    let datapath = Datapath::load(pins).unwrap();
    assert_eq!(datapath.generation_before(), Some(1));
    let stop = Arc::new(AtomicBool::new(false));
    let (a, b) = (&node.a.namespace, node.b.address);
    let traffic = [
        repeat(a, &stop, "a stream to a pod", stream(b, 8080)),
        repeat(a, &stop, "a stream through a service", stream(VIP, 80)),
        repeat(a, &stop, "a stream to the outside", stream(OUTSIDE, 80)),
        repeat(a, &stop, "connections to a pod", connections(b, 9080)),
        repeat(a, &stop, "connections through a service", connections(VIP, 90)),
        repeat(a, &stop, "connections to the outside", connections(OUTSIDE, 90)),
        repeat(a, &stop, "datagrams of one socket to the outside", datagrams(OUTSIDE, 53, true)),
        repeat(a, &stop, "datagrams of many sockets to the outside", datagrams(OUTSIDE, 53, false)),
        repeat(a, &stop, "datagrams of one socket through a service", datagrams(VIP, 53, true)),
        repeat(a, &stop, "datagrams of many sockets to a pod", datagrams(b, 5353, false)),
        repeat(a, &stop, "what is not allowed", refused(b, 8081)),
    ];
    sleep(STEP);
    hand_over(&datapath, [node.a.ifindex, node.b.ifindex], both);
    assert!(!pins.join("generation-1").exists());
    sleep(STEP);
    stop.store(true, Ordering::Relaxed);
    let mut noticed = Vec::new();
    for Traffic { what, running } in traffic {
        match running.join().expect("a thread") {
            Ok(count) => assert!(count > 10, "{what}: {count}"),
            Err(error) => noticed.push(format!("{what}: {error}")),
        }
    }
    noticed
}

#[test]
#[ignore = "needs root; 20 s"]
fn no_connection_notices_that_another_layout_takes_over() {
    on_a_node(|pins| assert_eq!(noticed(pins, true), Vec::<String>::new()));
}

#[test]
#[ignore = "needs root; 20 s"]
fn without_the_programs_before_connections_notice() {
    on_a_node(|pins| assert_ne!(noticed(pins, false), Vec::<String>::new()));
}
