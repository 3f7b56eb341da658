//! See `tombolo_fuzz::cni`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tombolo_fuzz::cni::run(bytes));
