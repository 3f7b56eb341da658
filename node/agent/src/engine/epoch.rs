//! When the programs judge running connections once more.

use std::time::Duration;

use tombolo_loader::TableError;
use tombolo_node_core::state::TableId;

/// Moves the policy epoch on.
pub type AdvanceEpoch = Box<dyn FnMut() -> Result<(), TableError> + Send>;

/// The least time between two epochs: each makes the next packet of every connection ask the rules.
const INTERVAL: Duration = Duration::from_millis(100);

/// Moves the policy epoch on after tables that decide verdicts have been written.
pub struct Epoch {
    advance: AdvanceEpoch,
    due: bool,
    advanced: Option<Duration>,
}

impl Epoch {
    /// Due at once: who ran before may have written tables and nothing more.
    pub fn new(advance: AdvanceEpoch) -> Self {
        Self { advance, due: true, advanced: None }
    }

    /// A table has been written.
    pub const fn note_written(&mut self, table: TableId) {
        self.due |= decides_verdicts(table);
    }

    /// When the next one is due, in the time of the loop.
    pub fn next(&self) -> Option<Duration> {
        self.due.then(|| self.advanced.map_or(Duration::ZERO, |advanced| advanced + INTERVAL))
    }

    /// Moves the epoch on if that is due, since nobody will look again.
    pub fn advance_last(&mut self) {
        if let Some(due) = self.next() {
            self.advance_if_due(due);
        }
    }

    /// Moves the epoch on if that is due at `now`. A failure is tried again.
    pub fn advance_if_due(&mut self, now: Duration) {
        if self.next().is_none_or(|next| next > now) {
            return;
        }
        self.advanced = Some(now);
        match (self.advance)() {
            Ok(()) => self.due = false,
            Err(e) => {
                tracing::error!(error = %e, "running connections cannot be judged by the new policies yet");
            }
        }
    }
}

/// Whether the table says who is who, or who may do what.
const fn decides_verdicts(table: TableId) -> bool {
    matches!(
        table,
        TableId::Identity | TableId::Prefix | TableId::Address | TableId::Policy | TableId::Endpoint
    )
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[test]
    fn epochs_follow_the_tables_of_verdicts_and_keep_their_distance() {
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        let mut epoch = Epoch::new(Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }));
        let at = Duration::from_millis;
        let advanced = |epoch: &mut Epoch, now| {
            epoch.advance_if_due(at(now));
            count.load(Ordering::Relaxed)
        };
        assert_eq!(advanced(&mut epoch, 0), 1, "one at the start");
        assert_eq!(advanced(&mut epoch, 500), 1);
        epoch.note_written(TableId::Service);
        assert_eq!((epoch.next(), advanced(&mut epoch, 600)), (None, 1));
        epoch.note_written(TableId::Policy);
        assert_eq!(advanced(&mut epoch, 700), 2);
        epoch.note_written(TableId::Endpoint);
        assert_eq!(epoch.next(), Some(at(800)));
        assert_eq!((advanced(&mut epoch, 799), advanced(&mut epoch, 800)), (2, 3));
        assert_eq!(epoch.next(), None);
    }

    #[test]
    fn a_failure_is_tried_again() {
        let mut epoch = Epoch::new(Box::new(|| Err(TableError::Full("POLICY_EPOCH"))));
        epoch.advance_if_due(Duration::ZERO);
        assert_eq!(epoch.next(), Some(INTERVAL));
    }
}
