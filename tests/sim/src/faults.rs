//! Deliberately broken ways to drive the core: the simulation has to notice each.

use clap::ValueEnum;

/// A mistake in what surrounds the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mutant {
    /// The disk forgets for whom the member voted.
    VotesNotStored,
    /// Messages leave while the disk still writes.
    SendBeforeStore,
    /// Who joins is let in by the check before the proposal, whatever became of the proposal.
    TokenCheckedEarly,
    /// A member that lost its disk comes back under its old id.
    OldIdAfterLoss,
    /// A disk forgets the newest entry of the log whenever it crashes.
    TornLog,
    /// Somebody puts an old backup in the place of a disk.
    OldBackup,
}

impl Mutant {
    /// Every mistake.
    pub const ALL: [Self; 5] = [
        Self::VotesNotStored,
        Self::SendBeforeStore,
        Self::TokenCheckedEarly,
        Self::OldIdAfterLoss,
        Self::TornLog,
    ];
}
