//! What arrives on a physical device: tcx ingress. A frame of a VLAN belongs to the device of that VLAN, and to none when
//! there is no such device.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};
use tombolo_abi::DeviceProgram;
use tombolo_datapath::hook;
use tombolo_programs::{NEXT, Unreadable, is_tagged, run};

/// The program.
#[classifier]
pub fn net_ingress(context: TcContext) -> i32 {
    if is_tagged(context.skb.skb) {
        return NEXT;
    }
    run(
        context.skb.skb,
        DeviceProgram::NetIngress,
        Unreadable::Pass,
        |packet, maps, headers, report, _, _| hook::net_ingress(packet, maps, headers, report),
    )
}
