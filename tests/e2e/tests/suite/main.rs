//! The end-to-end suites, by packets and messages, on a playground that runs. One program, so that they are linked once.
//!
//! `faults`, `joining`, `link`, `seeing`, `uninstall` and `wire` disturb the clusters or must not be disturbed: they run
//! with `--test-threads 1`, and with none of the others. `five` needs a playground of five clusters.
#![cfg(feature = "cluster")]

mod between;
mod faults;
mod five;
mod input;
mod joining;
mod kubectl;
mod link;
mod network;
mod node;
mod policy;
mod seeing;
mod uninstall;
mod wire;
