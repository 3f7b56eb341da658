//! See `tombolo_fuzz::replication`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tombolo_fuzz::replication::run(bytes));
