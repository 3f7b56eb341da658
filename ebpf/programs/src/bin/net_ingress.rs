//! What arrives on a physical device: tcx ingress.
#![no_std]
#![no_main]

use aya_ebpf::{macros::classifier, programs::TcContext};
use tombolo_abi::Hook;
use tombolo_datapath::{Link, hook};
use tombolo_programs::{Unreadable, run};

/// The program.
#[classifier]
pub fn net_ingress(context: TcContext) -> i32 {
    run(context.skb.skb, Hook::NetIngress, Link::Ethernet, Unreadable::Pass, |packet, maps, headers, _| {
        hook::net_ingress(packet, maps, headers)
    })
}
