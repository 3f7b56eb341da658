//! The generic reconciler: which writes bring a target (BPF map, route table, tunnel peers) to its desired table.
//!
//! It remembers what it wrote, so that a change costs its own keys only; a full pass over what the target really
//! holds heals drift. A failed write is tried again, later each time, and holds up no other key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

/// The wait after the first failed write; doubled with each further one.
pub const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
pub const LAST_RETRY: Duration = Duration::from_secs(30);

/// What a table is written to.
pub trait Target<K, V> {
    /// Why a write failed.
    type Error: Display;

    /// Makes `key` hold `value`, whether or not it exists.
    fn update(&mut self, key: &K, value: &V) -> Result<(), Self::Error>;

    /// Removes `key`; one that is already gone is no error.
    fn delete(&mut self, key: &K) -> Result<(), Self::Error>;

    /// Everything that the target holds and this table owns.
    fn list(&mut self) -> Result<BTreeMap<K, V>, Self::Error>;
}

/// Writes to do, in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<K, V> {
    /// Keys to create or change.
    pub updates: Vec<(K, V)>,
    /// Keys to remove.
    pub deletes: Vec<K>,
}

impl<K, V> Plan<K, V> {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.deletes.is_empty()
    }
}

/// The writes that lead from `applied` to `desired`; no deletes unless `prune`.
pub fn diff<K: Ord + Clone, V: PartialEq + Clone>(
    desired: &BTreeMap<K, V>,
    applied: &BTreeMap<K, V>,
    prune: bool,
) -> Plan<K, V> {
    let updates = desired
        .iter()
        .filter(|(key, value)| applied.get(key) != Some(value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let deletes = if prune {
        applied.keys().filter(|key| !desired.contains_key(key)).cloned().collect()
    } else {
        Vec::new()
    };
    Plan { updates, deletes }
}

/// The bookkeeping of one table.
#[derive(Debug)]
pub struct Reconciler<K, V> {
    applied: BTreeMap<K, V>,
    dirty: BTreeSet<K>,
    failures: BTreeMap<K, Failure>,
}

/// A key whose last write failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What the target said.
    pub error: String,
    /// Failed writes in a row.
    pub attempts: u32,
    /// When to try again.
    pub retry_at: Duration,
}

impl<K, V> Default for Reconciler<K, V> {
    fn default() -> Self {
        Self { applied: BTreeMap::new(), dirty: BTreeSet::new(), failures: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq + Clone> Reconciler<K, V> {
    /// Takes what the target really holds, at start and from time to time. Everything that differs from
    /// `desired` is looked at by the next [`Reconciler::plan`], keys that wait for a retry included.
    pub fn observe(&mut self, listed: BTreeMap<K, V>, desired: &BTreeMap<K, V>) {
        self.applied = listed;
        let Plan { updates, deletes } = diff(desired, &self.applied, true);
        self.dirty = updates.into_iter().map(|(key, _)| key).chain(deletes).collect();
        for failure in self.failures.values_mut() {
            failure.retry_at = Duration::ZERO;
        }
    }

    /// Notes keys whose desired value may have changed.
    pub fn touch(&mut self, keys: impl IntoIterator<Item = K>) {
        self.dirty.extend(keys);
    }

    /// The writes due at `now` among touched and failed keys. Without `prune`, deletes stay noted for later.
    pub fn plan(&self, desired: &BTreeMap<K, V>, now: Duration, prune: bool) -> Plan<K, V> {
        let mut plan = Plan { updates: Vec::new(), deletes: Vec::new() };
        for key in &self.dirty {
            if self.failures.get(key).is_some_and(|failure| failure.retry_at > now) {
                continue;
            }
            match (desired.get(key), self.applied.get(key)) {
                (Some(value), applied) if applied != Some(value) => {
                    plan.updates.push((key.clone(), value.clone()));
                }
                (None, Some(_)) if prune => plan.deletes.push(key.clone()),
                _ => {}
            }
        }
        plan
    }

    /// Notes the outcome of a write of `value`, or of a delete when there is none.
    pub fn record<E: Display>(&mut self, key: K, value: Option<V>, outcome: Result<(), E>, now: Duration) {
        match outcome {
            Ok(()) => {
                self.failures.remove(&key);
                match value {
                    Some(value) => self.applied.insert(key, value),
                    None => self.applied.remove(&key),
                };
            }
            Err(error) => {
                let attempts =
                    self.failures.get(&key).map_or(0, |failure| failure.attempts).saturating_add(1);
                let wait = FIRST_RETRY.saturating_mul(1 << (attempts - 1).min(16)).min(LAST_RETRY);
                let retry_at = now.saturating_add(wait);
                self.failures.insert(key, Failure { error: error.to_string(), attempts, retry_at });
            }
        }
    }

    /// Forgets touched keys that are as desired; call after the plan's outcomes are recorded.
    pub fn settle(&mut self, desired: &BTreeMap<K, V>) {
        let applied = &self.applied;
        self.dirty.retain(|key| desired.get(key) != applied.get(key));
        let dirty = &self.dirty;
        self.failures.retain(|key, _| dirty.contains(key));
    }

    /// Writes everything due to `target`: updates first, then, with `prune`, deletes. The number of keys whose last
    /// write failed; the rest of the table is written in spite of them.
    pub fn run<T: Target<K, V>>(
        &mut self,
        target: &mut T,
        desired: &BTreeMap<K, V>,
        now: Duration,
        prune: bool,
    ) -> usize {
        self.run_updates(target, desired, now);
        if prune {
            self.run_deletes(target, desired, now);
        }
        self.failures.len()
    }

    /// Writes the updates due, for tables whose updates and deletes are ordered with those of other tables.
    pub fn run_updates<T: Target<K, V>>(&mut self, target: &mut T, desired: &BTreeMap<K, V>, now: Duration) {
        for (key, value) in self.plan(desired, now, false).updates {
            let outcome = target.update(&key, &value);
            self.record(key, Some(value), outcome, now);
        }
        self.settle(desired);
    }

    /// Does the deletes due; see [`Reconciler::run_updates`].
    pub fn run_deletes<T: Target<K, V>>(&mut self, target: &mut T, desired: &BTreeMap<K, V>, now: Duration) {
        for key in self.plan(desired, now, true).deletes {
            let outcome = target.delete(&key);
            self.record(key, None, outcome, now);
        }
        self.settle(desired);
    }

    /// What was applied, as far as is known.
    pub const fn applied(&self) -> &BTreeMap<K, V> {
        &self.applied
    }

    /// Whether everything touched is as desired.
    pub fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// The keys whose last write failed.
    pub const fn failures(&self) -> &BTreeMap<K, Failure> {
        &self.failures
    }

    /// When the next retry is due; none when nothing failed.
    pub fn next_retry(&self) -> Option<Duration> {
        self.failures.values().map(|failure| failure.retry_at).min()
    }
}

#[cfg(test)]
mod tests;
