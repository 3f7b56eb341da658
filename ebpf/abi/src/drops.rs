//! Why packets are dropped: the per-CPU array `DROPS`, indexed by [`DropReason`], and the ring buffer `EVENTS`.

use bytemuck::{Pod, Zeroable};

use crate::{Address, Counter, Direction, Hook, metrics::numbered};

numbered! {
    /// Why a packet was dropped. The numbers never change.
    DropReason {
        /// No policy allows it, or one denies it.
        PolicyDenied = 0, "policy-denied";
        /// The service has no backend.
        NoBackend = 1, "no-backend";
        /// The source address does not belong to where the packet came from.
        SourceSpoofed = 2, "source-spoofed";
        /// Neither IPv4 nor IPv6, or a header that cannot be followed.
        UnknownProtocol = 3, "unknown-protocol";
        /// Shorter than its headers say.
        Truncated = 4, "truncated";
        /// A fragment whose first one was not seen.
        Fragment = 5, "fragment";
        /// The connection cannot be recorded.
        FlowTableFull = 6, "ct-full";
        /// No free port is left to hide the connection behind.
        SnatExhausted = 7, "snat-exhausted";
        /// No way leads there.
        NoRoute = 8, "no-route";
        /// Its hop limit is used up.
        TtlExceeded = 9, "ttl-exceeded";
        /// Another connection between the same addresses and ports is in the way, and no other port was found for the client.
        TranslationConflict = 10, "translation-conflict";
        /// It would leave for another cluster without encryption.
        Unencrypted = 11, "unencrypted";
        /// Changing the packet failed.
        RewriteFailed = 12, "rewrite-failed";
        /// The datapath has no configuration yet.
        NotConfigured = 13, "not-configured";
        /// A part of an SCTP packet whose port would have to be changed: the checksum covers the whole.
        SctpFragmented = 14, "sctp-fragmented";
        /// The pod has as many connections as it may have.
        ConnectionLimit = 15, "connection-limit";
    }
}

/// A number that is no drop reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownDropReason(pub u8);

/// Value of `DROPS`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DropCount {
    ingress: Counter,
    egress: Counter,
}

impl DropCount {
    /// The counter of a direction.
    pub const fn get(&self, direction: Direction) -> Counter {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }

    /// Counts a packet.
    #[inline(always)]
    pub const fn add(&mut self, direction: Direction, bytes: u32) {
        match direction {
            Direction::Ingress => self.ingress.add(bytes),
            Direction::Egress => self.egress.add(bytes),
        }
    }

    /// The sum, as over CPUs.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self { ingress: self.ingress.plus(other.ingress), egress: self.egress.plus(other.egress) }
    }
}

/// What is known about a dropped packet; what is not known is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DropEventFacts {
    /// Nanoseconds since boot (CLOCK_MONOTONIC).
    pub time: u64,
    /// Why.
    pub reason: DropReason,
    /// Which direction's rules refused it.
    pub direction: Direction,
    /// Where.
    pub hook: Hook,
    /// Device of the hook.
    pub ifindex: u32,
    /// Length in bytes.
    pub len: u32,
    /// Identity of the sender.
    pub source_identity: u32,
    /// Identity of the receiver.
    pub destination_identity: u32,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
}

/// An entry of `EVENTS`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct DropEvent {
    time: u64,
    ifindex: u32,
    len: u32,
    source_identity: u32,
    destination_identity: u32,
    source: Address,
    destination: Address,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    protocol: u8,
    reason: u8,
    direction: u8,
    hook: u8,
}

impl DropEvent {
    /// Packs the facts.
    #[inline(always)]
    pub const fn new(facts: &DropEventFacts) -> Self {
        Self {
            time: facts.time,
            ifindex: facts.ifindex,
            len: facts.len,
            source_identity: facts.source_identity,
            destination_identity: facts.destination_identity,
            source: facts.source,
            destination: facts.destination,
            source_port: facts.source_port.to_be_bytes(),
            destination_port: facts.destination_port.to_be_bytes(),
            protocol: facts.protocol,
            reason: facts.reason as u8,
            direction: facts.direction as u8,
            hook: facts.hook as u8,
        }
    }

    /// Unpacks the facts.
    ///
    /// # Errors
    /// A reason (or hook) with a number that this version does not know.
    pub fn facts(&self) -> Result<DropEventFacts, UnknownDropReason> {
        Ok(DropEventFacts {
            time: self.time,
            reason: DropReason::from_number(self.reason).ok_or(UnknownDropReason(self.reason))?,
            direction: if self.direction == 0 { Direction::Ingress } else { Direction::Egress },
            hook: Hook::from_number(self.hook).ok_or(UnknownDropReason(self.reason))?,
            ifindex: self.ifindex,
            len: self.len,
            source_identity: self.source_identity,
            destination_identity: self.destination_identity,
            source: self.source,
            destination: self.destination,
            source_port: u16::from_be_bytes(self.source_port),
            destination_port: u16::from_be_bytes(self.destination_port),
            protocol: self.protocol,
        })
    }
}

record!(DropCount { ingress, egress });
record!(DropEvent {
    time,
    ifindex,
    len,
    source_identity,
    destination_identity,
    source,
    destination,
    source_port,
    destination_port,
    protocol,
    reason,
    direction,
    hook
});

const _: () = assert!(size_of::<DropCount>() == 32);
const _: () = assert!(size_of::<DropEvent>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_names_distinct() {
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert_eq!(DropReason::ALL.iter().filter(|r| r.name() == reason.name()).count(), 1);
        }
    }
}
