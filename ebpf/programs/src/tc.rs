//! From the kernel's packet to the kernel's verdict.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::{bpf_ktime_get_ns, bpf_redirect, bpf_redirect_peer, bpf_skb_change_head, bpf_skb_store_bytes},
    macros::map,
    maps::{PerCpuArray, ProgramArray},
    programs::TcContext,
};
use tombolo_abi::{
    DeviceProgram, Direction, DropEvent, DropEventFacts, DropReason, EndpointValue, Hook, Metric,
};
use tombolo_datapath::{
    Headers, Link, Packet, Report, Tables, Translation, Verdict, classify, handover, refuse,
};

use crate::{
    Maps,
    sk_buff::{Fib, SkBuff},
};

/// The verdict (`enum tcx_action_base`) that lets the next program or the stack go on; it means the same to a filter with
/// direct action.
pub const NEXT: i32 = -1;
/// The one that drops.
const DROP: i32 = 2;

/// Large state that would not fit the stack, for the packet in hand.
#[repr(C)]
struct Scratch {
    headers: Headers,
    report: Report,
    translation: Translation,
    fib: Fib,
}

#[map]
static PREVIOUS: ProgramArray = ProgramArray::pinned(DeviceProgram::ALL.len() as u32, 0);

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// What is done with an IP packet whose headers cannot be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// It is dropped.
    Drop,
    /// The stack deals with it.
    Pass,
}

/// Whether the frame has a VLAN tag, which the kernel keeps aside.
#[inline(always)]
pub fn is_tagged(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context of the program.
    unsafe { (*skb).vlan_present != 0 }
}

/// Runs `decide` on a packet and does what it says.
#[inline(always)]
pub fn run(
    skb: *mut __sk_buff,
    program: DeviceProgram,
    unreadable: Unreadable,
    decide: impl FnOnce(
        &mut SkBuff<'_>,
        &'static Maps,
        &mut Headers,
        &mut Report,
        &mut Translation,
        u32,
    ) -> Result<Verdict<'static>, DropReason>,
) -> i32 {
    let link = if program.is_raw() { Link::Raw } else { Link::Ethernet };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return DROP };
    // SAFETY: the entry of this CPU; programs of one object do not nest.
    let Scratch { headers, report, translation, fib } = unsafe { &mut *scratch };
    *report = Report::default();
    *translation = Translation::none();
    let mut packet = SkBuff::new(skb, link, fib);
    let decided = match classify(&packet, &Maps, link, headers) {
        Ok(true) => {
            if handover::is_of_before(&Maps, headers) {
                run_previous(skb, program);
            }
            let ifindex = packet.ifindex();
            decide(&mut packet, &Maps, headers, report, translation, ifindex)
        }
        Ok(false) => Ok(Verdict::Pass),
        Err(_) if unreadable == Unreadable::Pass => Ok(Verdict::Pass),
        Err(reason) => Err(reason),
    };
    match decided.and_then(|verdict| act(&mut packet, link, headers, verdict)) {
        Ok(action) => action,
        Err(reason) => {
            let denied = matches!(reason, DropReason::PolicyDenied | DropReason::Fragment);
            // One that was translated here is nothing to the other program.
            if denied && !translation.exists && handover::is_denied_before(&Maps, headers) {
                run_previous(skb, program);
            }
            let action = drop(&packet, program.hook(), headers, report, reason);
            // The other hooks never find that, and the verifier need not look for it.
            if program == DeviceProgram::PodEgress && reason == DropReason::NoBackend {
                return answer(&mut packet, headers);
            }
            action
        }
    }
}

/// Refuses a packet of the pod behind this device. The answer takes the way past the program that asks the pod's rules.
#[inline(never)]
fn answer(packet: &mut SkBuff<'_>, headers: &Headers) -> i32 {
    if !refuse(packet, &Maps, headers) {
        return DROP;
    }
    // SAFETY: a helper on plain numbers.
    unsafe { bpf_redirect_peer(packet.ifindex(), 0) as i32 }
}

/// Goes on with the program of the version before, from its beginning; returns where there is none.
#[inline(always)]
fn run_previous(skb: *mut __sk_buff, program: DeviceProgram) {
    // SAFETY: the context of the program, which the other one gets as it is.
    unsafe { PREVIOUS.tail_call(&TcContext::new(skb), program as u32) };
}

#[inline(always)]
fn act(
    packet: &mut SkBuff<'_>,
    link: Link,
    headers: &Headers,
    verdict: Verdict<'_>,
) -> Result<i32, DropReason> {
    let len = packet.len();
    Ok(match verdict {
        Verdict::Pass => {
            Maps.count(Metric::ToStack, len);
            NEXT
        }
        Verdict::ToPod(pod) => {
            let action = enter(packet, link, headers.is_v6(), pod).ok_or(DropReason::RewriteFailed)?;
            Maps.count(Metric::ToPod, len);
            action
        }
        Verdict::ToUnderlay => {
            Maps.count(Metric::ToUnderlay, len);
            packet.redirect_to_next_hop()
        }
        Verdict::ToTunnel(ifindex) => {
            Maps.count(Metric::ToTunnel, len);
            // SAFETY: a helper on plain numbers; it removes the Ethernet header for the tunnel.
            unsafe { bpf_redirect(ifindex, 0) as i32 }
        }
    })
}

/// Addresses the frame to the pod and hands it to the pod's end of the veth.
#[inline(always)]
fn enter(packet: &mut SkBuff<'_>, link: Link, v6: bool, pod: &EndpointValue) -> Option<i32> {
    if link == Link::Raw {
        // SAFETY: the context of the program.
        let made = unsafe { bpf_skb_change_head(packet.as_ptr(), Link::Ethernet.header_len() as u32, 0) };
        if made != 0 {
            return None;
        }
    }
    let (p, h) = (pod.pod_mac(), pod.host_mac());
    let ether_type: [u8; 2] = if v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
    let frame = [
        p[0],
        p[1],
        p[2],
        p[3],
        p[4],
        p[5],
        h[0],
        h[1],
        h[2],
        h[3],
        h[4],
        h[5],
        ether_type[0],
        ether_type[1],
    ];
    // SAFETY: the helper reads the 14 bytes.
    if unsafe { bpf_skb_store_bytes(packet.as_ptr(), 0, frame.as_ptr().cast(), frame.len() as u32, 0) } != 0 {
        return None;
    }
    // SAFETY: a helper on plain numbers.
    Some(unsafe { bpf_redirect_peer(pod.ifindex(), 0) as i32 })
}

#[inline(never)]
fn drop(packet: &SkBuff<'_>, hook: Hook, headers: &Headers, report: &Report, reason: DropReason) -> i32 {
    let direction = report.direction.unwrap_or(match hook {
        Hook::PodEgress | Hook::NetEgress => Direction::Egress,
        Hook::PodIngress | Hook::NetIngress | Hook::MeshIngress => Direction::Ingress,
    });
    let len = packet.len();
    Maps::count_drop(reason, direction, len);
    Maps::report(DropEvent::new(&DropEventFacts {
        // SAFETY: a helper without arguments.
        time: unsafe { bpf_ktime_get_ns() },
        reason,
        direction,
        hook,
        ifindex: packet.ifindex(),
        len,
        source_identity: report.source_identity,
        destination_identity: report.destination_identity,
        source: headers.tuple.source,
        destination: headers.tuple.destination,
        source_port: headers.tuple.source_port,
        destination_port: headers.tuple.destination_port,
        protocol: headers.tuple.protocol,
    }));
    DROP
}
