//! Deliberately broken ways to drive the cores: the simulation has to notice each.

use clap::ValueEnum;

/// A mistake in what surrounds the cores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mutant {
    /// The disk forgets for whom the member voted.
    VotesNotStored,
    /// The disk forgets in which term the member is.
    TermsNotStored,
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
    /// A new daemon says at once that it knows everything.
    PruneEarly,
    /// A new daemon says that it knows everything as soon as it has read its own cluster.
    PendingForgotten,
    /// A new daemon takes the epoch of the one before it, and counts anew.
    EpochReused,
    /// Whatever a peer says is admitted.
    NoAdmission,
    /// A peer may announce any address.
    ForeignAddresses,
    /// Half of a transaction is taken for all of it.
    TransactionSplit,
    /// A frame is lost, and the session goes on.
    FrameLost,
    /// Two frames change places.
    FramesSwapped,
    /// A receiver is not told what exists no more.
    ObsoleteLost,
    /// A receiver is sent one bucket of those that differ.
    WantIgnored,
    /// A receiver resumes one revision behind where it stands.
    ResumesTooLate,
    /// A node loses what it was just given.
    DeltaLost,
    /// A daemon does not tell that a pod has gone.
    RemovalForgotten,
    /// A pod is told before its identity.
    EndpointFirst,
}

impl Mutant {
    /// Mistakes around membership. Not [`Mutant::OldBackup`], which is a fault of the world: a member that finds it out
    /// halts, as it should, and in a mesh of one nobody can.
    pub const MEMBERSHIP: [Self; 6] = [
        Self::VotesNotStored,
        Self::TermsNotStored,
        Self::SendBeforeStore,
        Self::TokenCheckedEarly,
        Self::OldIdAfterLoss,
        Self::TornLog,
    ];

    /// Mistakes around replication.
    pub const REPLICATION: [Self; 14] = [
        Self::PruneEarly,
        Self::PendingForgotten,
        Self::EpochReused,
        Self::NoAdmission,
        Self::ForeignAddresses,
        Self::TransactionSplit,
        Self::FrameLost,
        Self::FramesSwapped,
        Self::ObsoleteLost,
        Self::WantIgnored,
        Self::ResumesTooLate,
        Self::DeltaLost,
        Self::RemovalForgotten,
        Self::EndpointFirst,
    ];
}
