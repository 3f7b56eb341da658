//! Calls for one attachment come one after the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OwnedMutexGuard;
use tombolo_node_core::endpoints::AttachmentId;

type Turns = BTreeMap<AttachmentId, Arc<tokio::sync::Mutex<()>>>;

/// Who may work on which attachment.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Turns>>);

/// The right to work on an attachment; the next one gets it when this is dropped.
pub struct Call {
    id: AttachmentId,
    calls: Calls,
    _turn: OwnedMutexGuard<()>,
}

impl Calls {
    /// Waits until nobody else works on the attachment.
    pub async fn begin(&self, id: &AttachmentId) -> Call {
        let turn = Arc::clone(self.turns().entry(id.clone()).or_default());
        Call { id: id.clone(), calls: self.clone(), _turn: turn.lock_owned().await }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut turns = self.calls.turns();
        // One is in the map and one in the guard: nobody waits.
        if turns.get(&self.id).is_some_and(|turn| Arc::strong_count(turn) <= 2) {
            turns.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let calls = Calls::default();
        let id = AttachmentId { container: "c".into(), interface: "eth0".into() };
        let other = AttachmentId { container: "d".into(), interface: "eth0".into() };
        let first = calls.begin(&id).await;
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, calls.begin(&id)).await.is_err());
        drop(timeout(soon, calls.begin(&other)).await.unwrap());
        let waiting = tokio::spawn({
            let (calls, id) = (calls.clone(), id.clone());
            async move { drop(calls.begin(&id).await) }
        });
        tokio::task::yield_now().await;
        drop(first);
        waiting.await.unwrap();
        assert!(calls.turns().is_empty());
    }
}
