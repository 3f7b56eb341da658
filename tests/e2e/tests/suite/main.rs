//! The end-to-end suites, by packets and messages, on a playground. One program, so that they are linked once.
//!
//! Each test says in its `#[ignore]` what it needs, and `make test` gives it that (tests/runner).

mod between;
mod faults;
mod five;
mod input;
mod joining;
mod kubectl;
mod link;
mod network;
mod node;
mod outage;
mod policy;
mod rollout;
mod seeing;
mod uninstall;
mod wire;
