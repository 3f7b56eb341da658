//! The agent's side of CNI: it makes, keeps and removes the endpoints of this node.

mod calls;
mod failure;
mod gc;
mod manager;
mod server;

use async_trait::async_trait;
pub use manager::{Manager, ManagerConfig, ManagerError};
pub(crate) use server::listen;
pub use server::{ServerError, serve};
use tombolo_node_core::endpoints::LocalEndpoint;

/// Who carries the packets of an endpoint.
#[async_trait]
pub trait Datapath: Send + Sync {
    /// Connects an endpoint: when this returns, its policy is enforced and its packets flow. Called again for
    /// each endpoint that the agent finds at its start.
    async fn connect(&self, endpoint: &LocalEndpoint) -> anyhow::Result<()>;

    /// Forgets an endpoint that is no longer among those of the node: when this returns, no map speaks of it.
    async fn disconnect(&self, endpoint: &LocalEndpoint);
}
