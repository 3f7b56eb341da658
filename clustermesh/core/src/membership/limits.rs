//! How much a member stores, whatever others propose: all of it has to fit into one object of Kubernetes.

/// Bytes of all cluster records together: about 800 clusters with one certificate each.
pub(super) const MAX_RECORDS: usize = 720 * 1024;
/// Tokens that are open or remembered.
pub(super) const MAX_TOKENS: usize = 1024;
/// Departures that are remembered.
pub(super) const MAX_DEPARTURES: usize = 32;
/// Bytes of tokens, departures and the ids of clusters that are gone.
const MAX_REST: usize = 100 * 1024;
/// Entries in the log before they are folded into a snapshot.
pub(super) const MAX_LOG_ENTRIES: usize = 256;
/// Bytes in the log before they are folded into a snapshot.
pub(super) const MAX_LOG_BYTES: usize = 64 * 1024;
/// Bytes that a leader takes into the log before they are decided.
pub(super) const MAX_UNDECIDED: usize = 64 * 1024;
/// Bytes of a proposal. The largest record of a cluster that can be valid has 30 KiB.
pub(super) const MAX_PROPOSAL: usize = 32 * 1024;
/// Bytes of a [`Durable`](super::Durable).
pub const MAX_DURABLE: usize = MAX_RECORDS + MAX_REST + MAX_LOG_BYTES + MAX_UNDECIDED + MAX_PROPOSAL;
