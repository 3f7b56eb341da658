//! See `tombolo_fuzz::offload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tombolo_fuzz::offload::run(bytes));
