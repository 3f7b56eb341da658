//! The node agent: everything that has side effects on a node.
//!
//! What is to be done is decided by `tombolo-node-core`; this crate does it, and reports.

pub mod cleanup;
pub mod cni;
pub mod config;
pub mod engine;
pub mod file;
pub mod http;
pub mod install;
pub mod intent;
pub mod key;
pub mod kubernetes;
pub mod mac;
pub mod metrics;
pub mod netlink;
pub mod netns;
pub mod pod_link;
pub mod requirements;
pub mod store;
pub mod sysctl;
pub mod targets;
pub mod uapi;
pub mod underlay;
