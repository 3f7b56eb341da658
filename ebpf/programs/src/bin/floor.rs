//! The least that a datapath does with a TCP packet over IPv4: it reads the headers, looks one connection up and redirects.
//! Nothing of the product runs it; benchmarks compare the other programs with it.
#![no_std]
#![no_main]

use aya_ebpf::{helpers::bpf_redirect, macros::classifier, programs::TcContext};
use tombolo_abi::{FlowFlags, protocol, v4_mapped};
use tombolo_datapath::{Tables, key_between};
use tombolo_programs::{Maps, NEXT};

/// Length of the Ethernet header.
const ETHERNET: usize = 14;

/// The program.
#[classifier]
pub fn floor(context: TcContext) -> i32 {
    redirect(&context).unwrap_or(NEXT)
}

#[inline(always)]
fn redirect(context: &TcContext) -> Option<i32> {
    let (data, end) = (context.data(), context.data_end());
    if data + ETHERNET + 24 > end {
        return None;
    }
    // SAFETY: the bytes lie before the end, as has just been seen.
    let header = unsafe { &*((data + ETHERNET) as *const [u8; 24]) };
    if header[0] != 0x45 || header[9] != protocol::TCP {
        return None;
    }
    let address = |i: usize| v4_mapped([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let port = |i: usize| u16::from_be_bytes([header[i], header[i + 1]]);
    let (key, _) = key_between(&address(12), port(20), &address(16), port(22), protocol::TCP);
    let now = Maps.now();
    Maps.flow(&key, |flow| flow.touch(now, FlowFlags::NONE))?;
    // SAFETY: the context of the program, and a helper on plain numbers.
    Some(unsafe { bpf_redirect((*context.skb.skb).ifindex, 0) as i32 })
}
