//! Sessions between a cluster's daemon and its nodes: records down, facts up.

mod client;
mod server;

pub(crate) use client::count;
pub use client::{NodeClient, NodeClientConfig, NodeStatus};
pub use server::{NodeEvent, NodeServer};
