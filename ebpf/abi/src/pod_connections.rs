//! How many connections each pod has: the map `POD_CONNECTIONS`, so that no pod takes the entries of `FLOW` from others.
//! The programs add what is new, and the agent counts anew what is there.

use bytemuck::{Pod, Zeroable};

use crate::record::room;

/// Key of `POD_CONNECTIONS`: a pod of this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PodKey {
    endpoint: u32,
}

impl PodKey {
    /// The pod with this number (of [`EndpointValue`](crate::EndpointValue)).
    #[inline(always)]
    pub const fn new(endpoint: u32) -> Self {
        Self { endpoint }
    }

    /// Its number.
    pub const fn endpoint(&self) -> u32 {
        self.endpoint
    }
}

/// For so many nanoseconds a count is taken for right: six passes of the agent. Without an agent nobody takes off what is over,
/// so that nothing is refused by it any more.
const FRESH: u64 = 60 * 1_000_000_000;

/// Who opened a connection that a pod is charged with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Account {
    /// The pod itself.
    Opened,
    /// Somebody who is no pod of this node. A count of its own: others cannot keep the pod from opening connections.
    Accepted,
}

/// Value of `POD_CONNECTIONS`: the entries of `FLOW` that a pod is charged with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct PodConnections {
    counted_at: u64,
    opened: u32,
    accepted: u32,
    reserved: [u8; room(8)],
}

impl PodConnections {
    /// So many, counted at `now` (nanoseconds since boot).
    #[inline(always)]
    pub const fn new(opened: u32, accepted: u32, now: u64) -> Self {
        Self { counted_at: now, opened, accepted, reserved: [0; room(8)] }
    }

    /// How many on this account.
    #[inline(always)]
    pub const fn count(&self, account: Account) -> u32 {
        match account {
            Account::Opened => self.opened,
            Account::Accepted => self.accepted,
        }
    }

    /// When that was counted, in nanoseconds since boot.
    pub const fn counted_at(&self) -> u64 {
        self.counted_at
    }

    /// Adds `entries` to an account, unless there are as many as `limit` already (0 is none) and that is known well enough;
    /// whether it did. CPUs that add at the same time may lose some, until the agent counts anew.
    #[inline(always)]
    pub const fn admit(&mut self, account: Account, entries: u32, limit: u32, now: u64) -> bool {
        let is_fresh = now.saturating_sub(self.counted_at) < FRESH;
        if limit != 0 && is_fresh && self.count(account) >= limit {
            return false;
        }
        match account {
            Account::Opened => self.opened = self.opened.saturating_add(entries),
            Account::Accepted => self.accepted = self.accepted.saturating_add(entries),
        }
        true
    }
}

record!(PodKey { endpoint });
record!(PodConnections { counted_at, opened, accepted; reserved });

const _: () = assert!(size_of::<PodConnections>() == room(24));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_the_limit_are_admitted_on_each_account() {
        let mut connections = PodConnections::default();
        let admitted = [2, 2, 2, 0].map(|limit| connections.admit(Account::Opened, 1, limit, 1));
        assert_eq!(admitted, [true, true, false, true]);
        assert!(connections.admit(Account::Accepted, 2, 2, 1));
        assert_eq!([Account::Opened, Account::Accepted].map(|account| connections.count(account)), [3, 2]);
    }

    #[test]
    fn what_nobody_has_counted_for_long_refuses_nothing() {
        let mut connections = PodConnections::new(2, 0, 1000);
        assert!(!connections.admit(Account::Opened, 1, 2, 1000 + FRESH - 1));
        assert!(connections.admit(Account::Opened, 1, 2, 1000 + FRESH));
    }
}
