//! What a member wants to be done, in the only order that is safe.

use crate::membership::{Changes, Envelope, Proposal, Refusal};

/// The next thing to do for a member.
#[must_use]
pub enum Step {
    /// Store this, then give the proof to [`Member::persisted`](super::Member::persisted).
    Write(Write),
    /// Do this; nothing in it depends on anything not stored.
    Output(Output),
}

/// Something to store before anything else happens. Dropping it stops the member for good: it says nothing more.
#[must_use]
pub struct Write {
    pub(super) number: u64,
    pub(super) changes: Box<Changes>,
}

impl Write {
    /// What is to be stored.
    pub const fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Stores it with `save`, which returns once nothing can undo it.
    pub fn save<E>(self, save: impl FnOnce(&Changes) -> Result<(), E>) -> Result<Persisted, E> {
        save(&self.changes).map(|()| Persisted { number: self.number })
    }

    /// [`Write::save`] for storage that has to be awaited.
    pub async fn save_async<E>(
        self,
        save: impl AsyncFnOnce(&Changes) -> Result<(), E>,
    ) -> Result<Persisted, E> {
        save(&self.changes).await.map(|()| Persisted { number: self.number })
    }
}

/// The proof that a [`Write`] is stored; only saving one makes it.
#[must_use]
pub struct Persisted {
    pub(super) number: u64,
}

/// Things that may be done at once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    /// To send, in any order; losing some is harmless.
    pub messages: Vec<Envelope>,
    /// What has been decided since the last time.
    pub applied: Vec<Applied>,
}

/// An entry of the log that all members apply alike.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Its place in the log.
    pub index: u64,
    /// The term of the leader that put it there.
    pub term: u64,
    /// The proposal.
    pub proposal: Proposal,
    /// What became of it.
    pub outcome: Result<(), Refusal>,
}
