//! See `tombolo_fuzz::membership`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tombolo_fuzz::membership::run(bytes));
