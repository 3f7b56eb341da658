//! Services at the socket: cgroup hooks of connect, sendmsg, recvmsg and getpeername.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_socket_cookie, bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use tombolo_abi::{Address, OriginValue, v4_mapped};
use tombolo_datapath::socket::{Target, origin, target};
use tombolo_programs::Maps;

/// Verdicts of cgroup programs.
const PROCEED: i32 = 1;
const REFUSE: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// `connect` of an IPv4 socket.
#[cgroup_sock_addr(connect4)]
pub fn connect4(context: SockAddrContext) -> i32 {
    redirect(context.sock_addr, Family::V4)
}

/// `connect` of an IPv6 socket.
#[cgroup_sock_addr(connect6)]
pub fn connect6(context: SockAddrContext) -> i32 {
    redirect(context.sock_addr, Family::V6)
}

/// `sendmsg` of an unconnected IPv4 UDP socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(context: SockAddrContext) -> i32 {
    redirect(context.sock_addr, Family::V4)
}

/// `sendmsg` of an unconnected IPv6 UDP socket.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(context: SockAddrContext) -> i32 {
    redirect(context.sock_addr, Family::V6)
}

/// `recvmsg` of an IPv4 UDP socket.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V4)
}

/// `recvmsg` of an IPv6 UDP socket.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V6)
}

/// `getpeername` of an IPv4 socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V4)
}

/// `getpeername` of an IPv6 socket.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(context: SockAddrContext) -> i32 {
    restore(context.sock_addr, Family::V6)
}

/// The family of the socket. An IPv6 socket may talk to v4-mapped addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Sends a socket that asks for a service to a backend.
#[inline(always)]
fn redirect(context: *mut bpf_sock_addr, family: Family) -> i32 {
    let (address, port) = peer(context, family);
    // SAFETY: the context of the program.
    let protocol = unsafe { (*context).protocol as u8 };
    match target(&Maps, cookie(context), &address, port, protocol) {
        Target::Unchanged => PROCEED,
        Target::Backend(backend) => {
            set_peer(context, family, &backend.address(), backend.port());
            PROCEED
        }
        Target::Refused => {
            // The kernel's own answer would be EPERM, which clients do not take for a server that is away.
            // SAFETY: a helper on a plain number.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
            REFUSE
        }
    }
}

/// Shows a socket the frontend that it asked for as its peer.
#[inline(always)]
fn restore(context: *mut bpf_sock_addr, family: Family) -> i32 {
    let (address, port) = peer(context, family);
    // SAFETY: the context of the program.
    let protocol = unsafe { (*context).protocol as u8 };
    let found: Option<OriginValue> = origin(&Maps, cookie(context), &address, port, protocol);
    if let Some(frontend) = found {
        set_peer(context, family, &frontend.address(), frontend.port());
    }
    PROCEED
}

#[inline(always)]
fn cookie(context: *mut bpf_sock_addr) -> u64 {
    // SAFETY: the helper takes the context of the program.
    unsafe { bpf_get_socket_cookie(context.cast()) }
}

#[inline(always)]
fn peer(context: *mut bpf_sock_addr, family: Family) -> (Address, u16) {
    // SAFETY: the context of the program, whose fields may be read in whole words.
    unsafe {
        let port = u16::from_be((*context).user_port as u16);
        let address = match family {
            Family::V4 => v4_mapped((*context).user_ip4.to_ne_bytes()),
            Family::V6 => {
                let w = &raw const (*context).user_ip6;
                let (a, b, c, d) = (
                    word(w.cast(), 0).to_ne_bytes(),
                    word(w.cast(), 1).to_ne_bytes(),
                    word(w.cast(), 2).to_ne_bytes(),
                    word(w.cast(), 3).to_ne_bytes(),
                );
                [
                    a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
                    d[3],
                ]
            }
        };
        (address, port)
    }
}

/// Reads one word of an address; the context allows no other width.
#[inline(always)]
unsafe fn word(words: *const u32, index: usize) -> u32 {
    // SAFETY: the caller passes an index below four.
    unsafe { core::ptr::read_volatile(words.add(index)) }
}

#[inline(always)]
fn set_peer(context: *mut bpf_sock_addr, family: Family, address: &Address, port: u16) {
    let a = address;
    // SAFETY: the context of the program, whose fields may be written in whole words.
    unsafe {
        let last = u32::from_ne_bytes([a[12], a[13], a[14], a[15]]);
        match family {
            Family::V4 => (*context).user_ip4 = last,
            Family::V6 => {
                let w: *mut u32 = (&raw mut (*context).user_ip6).cast();
                core::ptr::write_volatile(w, u32::from_ne_bytes([a[0], a[1], a[2], a[3]]));
                core::ptr::write_volatile(w.add(1), u32::from_ne_bytes([a[4], a[5], a[6], a[7]]));
                core::ptr::write_volatile(w.add(2), u32::from_ne_bytes([a[8], a[9], a[10], a[11]]));
                core::ptr::write_volatile(w.add(3), last);
            }
        }
        (*context).user_port = u32::from(port.to_be());
    }
}
