//! Where the mesh is found again after the loss of the member's storage: the clusters with their authorities and
//! addresses, in an object of its own. It holds no secret and decides nothing.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use tokio::time::sleep;
use tombolo_mesh_core::membership::MeshState;
use tombolo_mesh_net::storage::StorageError;
use tracing::warn;

use super::Mesh;

/// How long to wait before the object is written again after a failure.
const RETRY: Duration = Duration::from_secs(5);

/// The mesh as it was remembered; none without an object that can be read.
pub(super) async fn load(mesh: &Mesh) -> Result<Option<MeshState>, StorageError> {
    let Some((bytes, _)) = (mesh.0.parts.memory)().load().await? else { return Ok(None) };
    match MeshState::decode(&bytes) {
        Ok(state) => Ok(Some(state)),
        Err(error) => {
            warn!(%error, "what is remembered of the mesh cannot be read");
            Ok(None)
        }
    }
}

/// Remembers the mesh as it changes.
pub(super) async fn keep(mesh: &Mesh) -> Infallible {
    let mut known = mesh.0.known.subscribe();
    let (mut stored, mut looked_at) = (None, None);
    loop {
        let now = known.borrow_and_update().as_ref().filter(|known| known.caught_up).map(|k| k.state.clone());
        // Hundreds of clusters are not to be compared each time that somebody looks.
        let number = |state: &MeshState| (state.mesh, state.lineage, state.version);
        if let Some(state) = now.filter(|state| looked_at != Some(number(state))) {
            looked_at = Some(number(&state));
            let state = MeshState { tokens: BTreeMap::new(), version: 0, clock: 0, ..(*state).clone() };
            if stored.as_ref() != Some(&state) {
                if let Err(error) = store(mesh, &state).await {
                    warn!(%error, "the mesh cannot be remembered");
                    looked_at = None;
                    sleep(RETRY).await;
                    continue;
                }
                stored = Some(state);
            }
        }
        if known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn store(mesh: &Mesh, state: &MeshState) -> Result<(), StorageError> {
    let (mut store, bytes) = ((mesh.0.parts.memory)(), state.encode());
    let before = store.load().await?;
    if before.as_ref().is_some_and(|(known, _)| *known == bytes) {
        return Ok(());
    }
    store.save(&bytes, before.as_ref().map(|(_, version)| version.as_str())).await.map(drop)
}
