//! Keeps MeshNode objects as the index wants them, in the background: what nodes have reported outlives the leader.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tokio::{sync::watch, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tombolo_api::MeshNode;
use tracing::warn;

/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// When what is not as wanted is written again.
const RETRY: Duration = Duration::from_secs(2);

/// Writes until it is dropped.
pub struct NodeStore {
    unkept: watch::Sender<Vec<MeshNode>>,
    // Ends the writer with this.
    _writer: AbortOnDropHandle<()>,
}

impl NodeStore {
    /// Starts the writer.
    pub fn new(client: Client) -> Self {
        let (unkept, wanted) = watch::channel(Vec::new());
        let writer = tokio::spawn(write(Api::all(client), wanted));
        Self { unkept, _writer: AbortOnDropHandle::new(writer) }
    }

    /// These are not as they should be. A node that was written is left out once the watch has seen it.
    pub fn keep(&self, unkept: Vec<MeshNode>) {
        self.unkept.send_if_modified(|before| {
            let modified = *before != unkept;
            *before = unkept;
            modified
        });
    }
}

async fn write(api: Api<MeshNode>, mut wanted: watch::Receiver<Vec<MeshNode>>) {
    let apply = PatchParams::apply("tombolo-clustermesh").force();
    loop {
        let nodes = wanted.borrow_and_update().clone();
        for node in &nodes {
            let name = node.metadata.name.as_deref().unwrap_or_default();
            match timeout(PATIENCE, api.patch(name, &apply, &Patch::Apply(node))).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => warn!(node = name, %error, "cannot keep a MeshNode, it is tried again"),
                Err(_) => warn!(node = name, "the API server does not take a MeshNode, it is tried again"),
            }
        }
        let again = if nodes.is_empty() { Duration::MAX } else { RETRY };
        if let Ok(Err(_)) = timeout(again, wanted.changed()).await {
            return;
        }
    }
}
