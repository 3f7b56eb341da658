//! What the programs share: the maps, the packet of a tc program, and the way from a verdict to the kernel's.
#![no_std]
#![feature(asm_experimental_arch)]

mod maps;
mod sk_buff;
mod tc;

pub use maps::Maps;
pub use tc::{NEXT, Unreadable, is_tagged, run};

/// The license that the kernel is told: it offers some helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
pub static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier would reject a program in which this could be reached.
    loop {}
}
