//! What a pod sends: ingress filter of the host's end of its veth.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};
use tombolo_abi::DeviceProgram;
use tombolo_datapath::hook;
use tombolo_programs::{Unreadable, run};

/// The program.
#[classifier]
pub fn pod_egress(context: TcContext) -> i32 {
    run(
        context.skb.skb,
        DeviceProgram::PodEgress,
        Unreadable::Drop,
        |packet, maps, headers, report, translation, ifindex| {
            hook::pod_egress(packet, maps, headers, report, translation, ifindex)
        },
    )
}
