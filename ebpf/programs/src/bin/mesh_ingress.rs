//! What arrives from the tunnel, a device without Ethernet header: tcx ingress.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};
use tombolo_abi::DeviceProgram;
use tombolo_datapath::hook;
use tombolo_programs::{Unreadable, run};

/// The program.
#[classifier]
pub fn mesh_ingress(context: TcContext) -> i32 {
    run(
        context.skb.skb,
        DeviceProgram::MeshIngress,
        Unreadable::Drop,
        |packet, maps, headers, report, _, _| hook::mesh_ingress(packet, maps, headers, report),
    )
}
