//! Routes from router advertisements outlive the agent's turning the node into a router. Needs root.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test stops at what it did not expect")]

use std::{
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
        sockopt,
    },
};
use tombolo_node::sysctl;

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x11);
const NODE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x22);

#[test]
#[ignore = "needs root; 20 s"]
fn a_node_that_becomes_a_router_keeps_its_advertised_default_route() {
    in_a_namespace(|| {
        advertise(1800);
        eventually(|| ip("-6 route show default").contains("fe80::11 dev eth0 proto ra"));
        sysctl::prepare_node().unwrap();
        assert_eq!(setting("all/forwarding"), "1");
        assert!(ip("-6 route show default").contains("fe80::11 dev eth0"), "the default route is gone");
        // It goes on listening.
        advertise(0);
        eventually(|| ip("-6 route show default").is_empty());
        // Another start changes nothing, nor does it make a device listen that came later or never did.
        ip("link add tmbpod type veth peer name pod");
        sysctl::prepare_node().unwrap();
        for (device, accepts) in [("eth0", "2"), ("tmbpod", "1"), ("deaf", "0")] {
            assert_eq!(setting(&format!("{device}/accept_ra")), accepts, "{device}");
        }
    });
}

/// With `eth0`, and a router at the other end of its wire.
fn in_a_namespace(test: impl FnOnce() + Send + 'static) {
    let inside = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("this test makes network namespaces: run it as root");
        for command in [
            "link set lo up",
            "link add eth0 type veth peer name router",
            "link add deaf type veth peer name quiet",
            "address add fe80::22/64 dev eth0 nodad",
            "address add fe80::11/64 dev router nodad",
            "link set eth0 up",
            "link set router up",
        ] {
            ip(command);
        }
        std::fs::write("/proc/sys/net/ipv6/conf/deaf/accept_ra", "0").unwrap();
        test();
    });
    if let Err(panic) = inside.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The router says for how many seconds it is a default router (RFC 4861, 4.2).
fn advertise(lifetime: u16) {
    let [high, low] = lifetime.to_be_bytes();
    let advertisement = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    let raw =
        socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6).unwrap();
    // Others come from farther away, and are ignored.
    setsockopt(&raw, sockopt::Ipv6Ttl, &255).unwrap();
    let index = nix::net::if_::if_nametoindex("router").unwrap();
    let to = SockaddrIn6::from(SocketAddrV6::new(NODE, 0, 0, index));
    let from = SockaddrIn6::from(SocketAddrV6::new(ROUTER, 0, 0, index));
    nix::sys::socket::bind(raw.as_raw_fd(), &from).unwrap();
    sendto(raw.as_raw_fd(), &advertisement, &to, MsgFlags::empty()).unwrap();
}

fn setting(key: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{key}")).unwrap().trim().to_owned()
}

fn eventually(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(5), "{}", ip("-6 route show table all"));
        thread::sleep(Duration::from_millis(20));
    }
}

fn ip(command: &str) -> String {
    let output = Command::new("ip").args(command.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
