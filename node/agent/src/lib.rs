//! The node agent: everything that has side effects on a node.
//!
//! What is to be done is decided by `tombolo-node-core`; this crate does it, and reports.

pub mod cni;
pub mod file;
pub mod mac;
pub mod netlink;
pub mod netns;
pub mod pod_link;
pub mod store;
pub mod sysctl;
