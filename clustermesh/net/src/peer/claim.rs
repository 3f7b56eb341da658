//! Which of several connections with a peer is used.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The connection in use, if any. When both sides dial at the same time, both must keep the same connection: the one
/// that the cluster with the lower id has dialled. Otherwise the newer one is kept: the older one's other end is likely
/// to be gone.
#[derive(Debug)]
pub(super) struct Claims {
    /// Whether connections dialled here are preferred.
    prefer_dialled: bool,
    active: Mutex<Option<Active>>,
    /// Whether a connection is in use.
    busy: watch::Sender<bool>,
}

#[derive(Debug)]
struct Active {
    dialled: bool,
    cancel: CancellationToken,
    number: u64,
}

/// The right to use a connection; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    claims: &'a Claims,
    cancel: CancellationToken,
    number: u64,
}

impl Claims {
    pub(super) fn new(prefer_dialled: bool) -> Self {
        Self { prefer_dialled, active: Mutex::default(), busy: watch::Sender::new(false) }
    }

    /// The right to use a new connection, taken from the one in use if there is one; none if that one is kept.
    pub(super) fn claim(&self, dialled: bool) -> Option<Claim<'_>> {
        let mut active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        let mut number = 0;
        if let Some(old) = active.as_ref() {
            if old.dialled == self.prefer_dialled && dialled != self.prefer_dialled {
                return None;
            }
            old.cancel.cancel();
            number = old.number + 1;
        }
        let cancel = CancellationToken::new();
        *active = Some(Active { dialled, cancel: cancel.clone(), number });
        self.busy.send_replace(true);
        Some(Claim { claims: self, cancel, number })
    }

    /// Ends the connection in use.
    pub(super) fn cancel(&self) {
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(active) = active.as_ref() {
            active.cancel.cancel();
        }
    }

    pub(super) async fn wait_until_free(&self) {
        // The sender lives as long as self.
        let _ = self.busy.subscribe().wait_for(|busy| !busy).await;
    }
}

impl Claim<'_> {
    pub(super) async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Whether another connection has taken over, or the peer has left.
    pub(super) fn was_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut active = self.claims.active.lock().unwrap_or_else(PoisonError::into_inner);
        if active.as_ref().is_some_and(|a| a.number == self.number) {
            *active = None;
            self.claims.busy.send_replace(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_keep_the_same_connection() {
        let (low, high) = (Claims::new(true), Claims::new(false));
        // Connection 1 was dialled by the lower id, connection 2 by the higher one; they arrive in opposite orders.
        let low_1 = low.claim(true);
        assert!(low.claim(false).is_none());
        let high_2 = high.claim(true);
        let high_1 = high.claim(false);
        assert!(low_1.is_some_and(|c| !c.was_cancelled()));
        assert!(high_1.is_some_and(|c| !c.was_cancelled()));
        assert!(high_2.is_some_and(|c| c.was_cancelled()));
    }

    #[test]
    fn the_newer_of_two_alike_is_kept() {
        let claims = Claims::new(true);
        let old = claims.claim(true).unwrap();
        let new = claims.claim(true).unwrap();
        assert!(old.was_cancelled() && !new.was_cancelled());
        drop(old);
        assert!(*claims.busy.borrow());
        drop(new);
        assert!(!*claims.busy.borrow());
    }
}
