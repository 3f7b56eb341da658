//! Packet decisions, compiled into the BPF programs and into host tests.
