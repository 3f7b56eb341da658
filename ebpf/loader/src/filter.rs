//! Programs as filters of a device: a clsact qdisc with cls_bpf in direct action, over rtnetlink(7).
//!
//! Making a tcx link waits for an RCU grace period while the kernel's lock of all devices is held; a filter is there
//! at once, runs the same programs with the same verdicts, and goes away with its device. The numbers are those of
//! include/uapi/linux/rtnetlink.h, pkt_sched.h and pkt_cls.h.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::sys::raw;

/// The packets of a device that a filter sees, by the number of their half of clsact.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub enum Direction {
    /// What comes out of it.
    Ingress = 0xffff_fff2,
    /// What is sent into it.
    Egress = 0xffff_fff3,
}

/// A program to attach.
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    /// Where.
    pub direction: Direction,
    /// Its name, for people.
    pub name: &'a str,
    /// The program.
    pub program: BorrowedFd<'a>,
}

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const CLSACT: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
/// First and only of its priority; the priority stands in the upper half, the protocol (all, in network order) below.
const HANDLE: u32 = 1;
const PRIORITY: u32 = 1 << 16;
const ALL_PROTOCOLS: u16 = 3;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const DIRECT_ACTION: u32 = 1;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;

/// Attaches all of `filters` to the device of the caller's network namespace, each replacing the one of its direction
/// in one step.
pub fn attach(ifindex: u32, filters: &[Filter<'_>]) -> io::Result<()> {
    let mut request = message(RTM_NEWQDISC, 0, target(ifindex, CLSACT, CLSACT_PARENT, 0), &kind("clsact"));
    for filter in filters {
        let info = PRIORITY | u32::from(ALL_PROTOCOLS.to_be());
        let target = target(ifindex, HANDLE, filter.direction as u32, info);
        request.extend(message(RTM_NEWTFILTER, NLM_F_REPLACE, target, &options(filter)));
    }
    let protocol = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;
    // The kernel has carried out one after the other before `send` returned, and has answered each.
    (0..=filters.len()).map(|_| answer(&socket)).fold(Ok(()), io::Result::and)
}

fn options(filter: &Filter<'_>) -> Vec<u8> {
    let program = attribute(TCA_BPF_FD, &raw(filter.program).to_ne_bytes());
    let name = attribute(TCA_BPF_NAME, &text(filter.name));
    let flags = attribute(TCA_BPF_FLAGS, &DIRECT_ACTION.to_ne_bytes());
    [kind("bpf"), attribute(TCA_OPTIONS, &[program, name, flags].concat())].concat()
}

fn kind(name: &str) -> Vec<u8> {
    attribute(TCA_KIND, &text(name))
}

fn text(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

/// `struct tcmsg`.
fn target(ifindex: u32, handle: u32, parent: u32, info: u32) -> [[u8; 4]; 5] {
    [0, ifindex, handle, parent, info].map(u32::to_ne_bytes)
}

/// `struct nlattr` and its content, padded.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = 4 + content.len() as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `struct nlmsghdr` and its content, whose parts are padded.
fn message(kind: u16, flags: u16, target: [[u8; 4]; 5], attributes: &[u8]) -> Vec<u8> {
    let target = target.concat();
    let length = (HEADER + target.len() + attributes.len()) as u32;
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | flags;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
    // Neither sequence number nor sender: the socket is asked once.
    bytes.extend([0; 8]);
    bytes.extend([&target, attributes].concat());
    bytes
}

/// The next answer, which is an error number, zero for success.
fn answer(socket: &OwnedFd) -> io::Result<()> {
    let mut bytes = [0; 4096];
    let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT)?;
    let answer = bytes.get(..length).unwrap_or_default();
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let number = answer.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, number) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(number)) => Err(io::Error::from_raw_os_error(number.wrapping_neg())),
        _ => Err(io::Error::other("the kernel's answer is not understood")),
    }
}
