//! What leaves on a device without Ethernet header (a TUN device, WireGuard, PPP): tcx egress.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};
use tombolo_abi::DeviceProgram;
use tombolo_datapath::hook;
use tombolo_programs::{Unreadable, run};

/// The program.
#[classifier]
pub fn net_egress_raw(context: TcContext) -> i32 {
    run(
        context.skb.skb,
        DeviceProgram::NetEgressRaw,
        Unreadable::Pass,
        |packet, maps, headers, report, _, _| hook::net_egress(packet, maps, headers, report),
    )
}
