//! What this node knows and wants, shared between those who learn (session, CNI) and those who act (reconcilers).

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tombolo_cni::protocol::Pod;
use tombolo_model::EndpointRecord;
use tombolo_node_core::state::State;

/// The state of the node, with a wake-up for each change.
#[derive(Debug)]
pub struct Intent {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Intent {
    /// Around a state.
    pub fn new(state: State) -> Self {
        Self { state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    /// Looks at the state.
    pub fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the state and wakes everybody who waits for changes.
    pub fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
        result
    }

    /// Works on the state without waking anybody: to take what has changed, not to change it.
    pub fn take<T>(&self, take: impl FnOnce(&mut State) -> T) -> T {
        take(&mut self.lock())
    }

    /// Wakes up after each [`Intent::write`], several at a time as one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The record of a pod of this cluster, as soon as there is one and the state is known in full: the pod's policy
    /// depends on all of it. Without a UID any pod of that name will do,
    /// as the runtime does not tell more.
    pub async fn pod(&self, pod: &Pod) -> EndpointRecord {
        let mut changes = self.changes();
        loop {
            if let Some(record) = self.read(|state| state.may_prune().then(|| find(state, pod)).flatten()) {
                return record;
            }
            // The sender lives as long as this.
            let _ = changes.changed().await;
        }
    }

    /// Why the node cannot take new pods yet; none when it can.
    pub fn unavailable(&self) -> Option<&'static str> {
        (!self.read(State::may_prune)).then_some(
            "the node has not been told the cluster's state yet: check that tombolo-clustermesh runs and can be \
             reached on port 4240/udp",
        )
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(state: &State, pod: &Pod) -> Option<EndpointRecord> {
    let key = (state.own().cluster, pod.namespace.clone(), pod.name.clone());
    let record = state.records().endpoints().get(&key)?;
    (pod.uid.is_empty() || pod.uid == record.uid).then(|| record.clone())
}
