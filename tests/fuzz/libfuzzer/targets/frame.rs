//! See `tombolo_fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tombolo_fuzz::frame::run(bytes));
