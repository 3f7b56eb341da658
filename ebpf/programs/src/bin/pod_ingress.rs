//! What the stack sends to a pod: egress filter of the host's end of its veth.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};
use tombolo_abi::DeviceProgram;
use tombolo_datapath::hook;
use tombolo_programs::{Unreadable, run};

/// The program.
#[classifier]
pub fn pod_ingress(context: TcContext) -> i32 {
    run(
        context.skb.skb,
        DeviceProgram::PodIngress,
        Unreadable::Drop,
        |packet, maps, headers, report, _, ifindex| hook::pod_ingress(packet, maps, headers, report, ifindex),
    )
}
