//! See `tombolo_fuzz::tunnel`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tombolo_fuzz::tunnel::run(bytes));
