//! See `tombolo_fuzz::classify`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tombolo_fuzz::classify::run(bytes));
