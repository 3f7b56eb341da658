//! Programs as filters of a device: a clsact qdisc with cls_bpf in direct action, over rtnetlink(7).
//!
//! Making a tcx link waits for an RCU grace period while the kernel's lock of all devices is held; a filter is there
//! at once, runs the same programs with the same verdicts, and goes away with its device. The numbers are those of
//! include/uapi/linux/rtnetlink.h, pkt_sched.h and pkt_cls.h.

use std::{io, os::fd::BorrowedFd};

use crate::{
    netlink::{self, Asked, CREATE, ONLY_NEW, REPLACE, attribute, message},
    sys::raw,
};

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

/// Attaches all of `filters` to the device of the caller's network namespace, each replacing the one of its direction
/// in one step.
pub fn attach(ifindex: u32, filters: &[Filter<'_>]) -> io::Result<()> {
    let asked = ask(ifindex, filters, CREATE, CREATE | REPLACE)?;
    (0..=filters.len()).map(|_| asked.done()).fold(Ok(()), io::Result::and)
}

/// Attaches those of `filters` that the device lacks, and tells how many these were.
pub fn restore(ifindex: u32, filters: &[Filter<'_>]) -> io::Result<usize> {
    let asked = ask(ifindex, filters, CREATE | ONLY_NEW, CREATE | ONLY_NEW)?;
    made(asked.done())?;
    let mut lacking = 0;
    for _ in filters {
        lacking += usize::from(made(asked.done())?);
    }
    Ok(lacking)
}

/// Whether something was made that was not there.
fn made(answer: io::Result<()>) -> io::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// Asks for the device's clsact and for the filters, in this order.
fn ask(ifindex: u32, filters: &[Filter<'_>], clsact: u16, each: u16) -> io::Result<Asked> {
    let target_clsact = target(ifindex, CLSACT, CLSACT_PARENT, 0);
    let mut requests = message(RTM_NEWQDISC, clsact, &target_clsact, &kind("clsact"));
    for filter in filters {
        let info = PRIORITY | u32::from(ALL_PROTOCOLS.to_be());
        let target = target(ifindex, HANDLE, filter.direction as u32, info);
        requests.extend(message(RTM_NEWTFILTER, each, &target, &options(filter)));
    }
    netlink::send(&requests)
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
fn target(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, ifindex, handle, parent, info].map(u32::to_ne_bytes).concat()
}
