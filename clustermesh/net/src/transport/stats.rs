//! Counters that the binaries export as metrics.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one endpoint, since its start.
        #[derive(Debug, Default)]
        pub struct Stats {
            $(pub(crate) $name: Counter,)*
            last_refusal: Mutex<Option<String>>,
        }

        /// The values of [`Stats`] at one moment.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct StatsSnapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// The values now.
            pub fn snapshot(&self) -> StatsSnapshot {
                StatsSnapshot { $($name: self.$name.get(),)* }
            }
        }

        impl StatsSnapshot {
            /// Each value with its name.
            pub fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

stats! {
    /// Bytes of frames sent, without length prefixes.
    sent_bytes,
    /// Frames sent.
    sent_frames,
    /// Changes of records sent.
    sent_changes,
    /// Bytes of frames received, without length prefixes.
    received_bytes,
    /// Frames received.
    received_frames,
    /// Changes of records received.
    received_changes,
    /// Changes received that were of unknown kinds.
    skipped_changes,
    /// Subscriptions that went on where they had stopped.
    resumed,
    /// Subscriptions that were sent what differs from what the other side holds.
    comparisons,
    /// Subscriptions that were sent everything.
    snapshots,
    /// Connections whose handshake succeeded.
    accepted,
    /// Connections whose handshake failed: no common protocol, or a certificate that was refused.
    handshakes_failed,
    /// Connections of clients that have no right to the service.
    denied,
    /// Sessions ended because of a frame that was too long.
    oversize_frames,
    /// Sessions ended because of a frame that was not valid.
    invalid_frames,
    /// Sessions ended because of frames that did not fit together.
    protocol_errors,
    /// Nodes that were given a certificate.
    enrolled,
    /// Nodes that were refused one.
    enroll_refused,
}

impl Stats {
    /// How many connections were refused, and why the last one; none if none was.
    pub fn refused(&self) -> Option<(u64, String)> {
        let last = self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        Some((self.handshakes_failed.get() + self.denied.get(), last))
    }

    pub(crate) fn note_refusal(&self, why: String) {
        *self.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub(crate) fn inc(&self) {
        self.add(1);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
