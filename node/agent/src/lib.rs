//! The node agent: everything that has side effects on a node.
//!
//! What is to be done is decided by `tombolo-node-core`; this crate does it, and reports.

pub mod agent;
pub mod cleanup;
pub mod clock;
pub mod cni;
pub mod config;
pub mod connections;
pub mod dataplane;
pub mod engine;
pub mod file;
pub mod guard;
pub mod http;
pub mod install;
pub mod intent;
pub mod key;
pub mod kubernetes;
pub mod mac;
pub mod maps;
pub mod metrics;
pub mod nat;
pub mod netlink;
pub mod netns;
pub mod observe;
pub mod pod_link;
pub mod query;
pub mod requirements;
pub mod session;
pub mod status;
pub mod store;
pub mod sysctl;
pub mod targets;
pub mod uapi;
pub mod underlay;
