//! One table and the target it is written to.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use tombolo_node_core::{
    reconcile::{Plan, Reconciler, Target},
    state::{State, TableId},
    table::Table,
};

/// A table with its target, whatever their types. The steps are separate so that the state is locked only while
/// nothing is written.
pub trait Lane: Send {
    /// Which table.
    fn table(&self) -> TableId;
    /// Lists what the target holds.
    fn list(&mut self);
    /// Notes where the list differs from what is desired.
    fn compare(&mut self, state: &mut State);
    /// Takes the changes of the table and decides what is to be written.
    fn plan(&mut self, state: &mut State, now: Duration, prune: bool);
    /// Writes planned updates.
    fn update(&mut self, now: Duration);
    /// Writes planned deletes.
    fn delete(&mut self, now: Duration);
    /// Whether anything was written since the last call.
    fn take_written(&mut self) -> bool;
    /// Forgets what is done.
    fn settle(&mut self, state: &mut State);
    /// Whether the target is as desired, as far as is known.
    fn is_settled(&self) -> bool;
    /// When a failed write is tried again.
    fn next_retry(&self) -> Option<Duration>;
    /// What fails at the moment.
    fn failures(&self) -> Vec<String>;
}

/// A [`Lane`] of a table of the state.
pub struct TableLane<K, V, T> {
    id: TableId,
    table: fn(&mut State) -> &mut Table<K, V>,
    target: T,
    reconciler: Reconciler<K, V>,
    listed: Option<Result<BTreeMap<K, V>, String>>,
    /// Why the last list failed; nothing is written before one succeeds, as writes would be blind.
    broken: Option<String>,
    plan: Plan<K, V>,
    written: bool,
}

impl<K, V, T> TableLane<K, V, T> {
    /// The table that `table` picks from the state.
    pub fn new(id: TableId, table: fn(&mut State) -> &mut Table<K, V>, target: T) -> Self
    where
        K: Ord + Clone,
        V: PartialEq + Clone,
    {
        Self {
            id,
            table,
            target,
            reconciler: Reconciler::default(),
            listed: None,
            broken: Some("not listed yet".into()),
            plan: Plan { updates: Vec::new(), deletes: Vec::new() },
            written: false,
        }
    }
}

impl<K, V, T> Lane for TableLane<K, V, T>
where
    K: Ord + Clone + Debug + Send,
    V: PartialEq + Clone + Send,
    T: Target<K, V> + Send,
{
    fn table(&self) -> TableId {
        self.id
    }

    fn list(&mut self) {
        self.listed = Some(self.target.list().map_err(|e| e.to_string()));
    }

    fn compare(&mut self, state: &mut State) {
        match self.listed.take() {
            Some(Ok(listed)) => {
                self.broken = None;
                self.reconciler.observe(listed, (self.table)(state).entries());
            }
            Some(Err(error)) => self.broken = Some(error),
            None => {}
        }
    }

    fn plan(&mut self, state: &mut State, now: Duration, prune: bool) {
        let table = (self.table)(state);
        self.reconciler.touch(table.take_changed());
        if self.broken.is_none() {
            self.plan = self.reconciler.plan(table.entries(), now, prune);
        }
    }

    fn update(&mut self, now: Duration) {
        for (key, value) in std::mem::take(&mut self.plan.updates) {
            let outcome = self.target.update(&key, &value);
            self.reconciler.record(key, Some(value), outcome, now);
            self.written = true;
        }
    }

    fn delete(&mut self, now: Duration) {
        for key in std::mem::take(&mut self.plan.deletes) {
            let outcome = self.target.delete(&key);
            self.reconciler.record(key, None, outcome, now);
            self.written = true;
        }
    }

    fn take_written(&mut self) -> bool {
        std::mem::take(&mut self.written)
    }

    fn settle(&mut self, state: &mut State) {
        self.reconciler.settle((self.table)(state).entries());
    }

    fn is_settled(&self) -> bool {
        self.broken.is_none() && self.reconciler.is_settled()
    }

    fn next_retry(&self) -> Option<Duration> {
        self.reconciler.next_retry()
    }

    fn failures(&self) -> Vec<String> {
        let of_keys =
            self.reconciler.failures().iter().map(|(key, failure)| format!("{key:?}: {}", failure.error));
        self.broken.iter().cloned().chain(of_keys).collect()
    }
}
