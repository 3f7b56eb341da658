//! Masquerading: the LRU map `SNAT`, the ports that it may take, and for how long.

use bytemuck::{Pod, Zeroable};

use crate::{Address, FlowFlags, FlowKey, Scope, protocol, record::room};

/// The ports behind which pods are hidden: two ranges, so that those between them stay the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct NatPorts {
    first: u16,
    last: u16,
    second_first: u16,
    second_last: u16,
}

impl NatPorts {
    /// All ports but the well-known ones, those of Kubernetes' node ports (30000–32767), and those that Linux gives to
    /// connections of the host by default (`ip_local_port_range`, 32768–60999).
    pub const DEFAULT: Self = Self::new((1024, 29_999), (61_000, 65_535));

    /// Two ranges that do not overlap, first and last port included. One that ends before it begins is empty, and port 0
    /// is none.
    pub const fn new(first: (u16, u16), second: (u16, u16)) -> Self {
        const fn from_one(port: u16) -> u16 {
            if port == 0 { 1 } else { port }
        }
        Self {
            first: from_one(first.0),
            last: first.1,
            second_first: from_one(second.0),
            second_last: second.1,
        }
    }

    /// One range.
    pub const fn one(first: u16, last: u16) -> Self {
        Self::new((first, last), (1, 0))
    }

    /// The ranges, first and last port included.
    pub const fn ranges(&self) -> [(u16, u16); 2] {
        [(self.first, self.last), (self.second_first, self.second_last)]
    }

    /// How many ports there are.
    #[inline(always)]
    pub const fn count(&self) -> u32 {
        Self::length(self.first, self.last) + Self::length(self.second_first, self.second_last)
    }

    #[inline(always)]
    const fn length(first: u16, last: u16) -> u32 {
        if last < first { 0 } else { (last - first) as u32 + 1 }
    }

    /// Port `index`, from 0 and below [`Self::count`]; a larger index gives a port outside of the ranges.
    #[inline(always)]
    pub const fn nth(&self, index: u32) -> u16 {
        let length = Self::length(self.first, self.last);
        if index < length {
            self.first.wrapping_add(index as u16)
        } else {
            self.second_first.wrapping_add((index - length) as u16)
        }
    }

    /// Whether a port is in one of the ranges.
    #[inline(always)]
    pub const fn contains(&self, port: u16) -> bool {
        (port >= self.first && port <= self.last) || (port >= self.second_first && port <= self.second_last)
    }
}

/// For how long a port is kept for a connection without packets, in seconds. Nothing keeps them from being shorter than
/// the RFCs ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct NatTimeouts {
    /// TCP in both directions. RFC 5382 (REQ-5) asks for 2 h 4 min.
    pub tcp_established: u32,
    /// TCP while it opens or closes. RFC 5382 (REQ-5) asks for 4 min.
    pub tcp_transitory: u32,
    /// UDP that was answered. RFC 4787 (REQ-5) asks for 2 min and recommends 5.
    pub udp: u32,
    /// UDP that was not answered. RFC 4787 (REQ-5) asks for 2 min.
    pub udp_unanswered: u32,
    /// UDP that was answered by a DNS server (port 53): RFC 4787 (REQ-5a) allows less for what is known to need less.
    pub udp_dns: u32,
    /// Echo requests. RFC 5508 (REQ-2) asks for 60 s.
    pub icmp: u32,
    /// All other protocols.
    pub other: u32,
}

impl Default for NatTimeouts {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const SECOND: u64 = 1_000_000_000;
const DNS: u16 = 53;

impl NatTimeouts {
    /// What the RFCs ask for.
    pub const DEFAULT: Self = Self {
        tcp_established: 7440,
        tcp_transitory: 240,
        udp: 300,
        udp_unanswered: 120,
        udp_dns: 30,
        icmp: 60,
        other: 300,
    };

    /// For how long entries are kept that were written without protocol state, as 0.1.0 did, in nanoseconds: what they are
    /// is not known.
    pub const WITHOUT_STATE: u64 = 8 * 3600 * SECOND;

    /// When no other port is left, that of a TCP connection closed so long ago is given away, in nanoseconds. Earlier than
    /// RFC 5382 (REQ-5) asks for, since the alternative is to drop.
    pub const CLOSED: u64 = 10 * SECOND;

    /// How long an entry of `SNAT` with these flags is kept, in nanoseconds. `protocol` is the IANA number, `remote_port`
    /// the port outside.
    #[inline(always)]
    pub const fn lifetime(&self, flags: FlowFlags, protocol: u8, remote_port: u16) -> u64 {
        if flags.bits() == 0 {
            return Self::WITHOUT_STATE;
        }
        let answered = flags.contains(FlowFlags::REPLIED);
        let seconds = match protocol {
            protocol::TCP if flags.contains(FlowFlags::ESTABLISHED) && !flags.is_closed() => {
                self.tcp_established
            }
            protocol::TCP => self.tcp_transitory,
            protocol::UDP if !answered => self.udp_unanswered,
            protocol::UDP if remote_port == DNS => self.udp_dns,
            protocol::UDP => self.udp,
            protocol::ICMP | protocol::ICMPV6 => self.icmp,
            _ => self.other,
        };
        seconds as u64 * SECOND
    }
}

/// Key of `SNAT` for packets from a pod to the outside.
#[inline(always)]
pub const fn forward_key(pod: (Address, u16), outside: (Address, u16), protocol: u8) -> FlowKey {
    FlowKey::new(Scope::Forward, pod.0, pod.1, outside.0, outside.1, protocol)
}

/// Key of `SNAT` for the answers to `port` of the node. The answer to an echo has the changed identifier on both sides,
/// whatever `outside` says.
#[inline(always)]
pub const fn reverse_key(
    outside: (Address, u16),
    node: Address,
    port: u16,
    echo: bool,
    protocol: u8,
) -> FlowKey {
    let outside_port = if echo { port } else { outside.1 };
    FlowKey::new(Scope::Reverse, outside.0, outside_port, node, port, protocol)
}

/// The key for packets of the pod, from an entry for the answers to them.
pub const fn forward_of(reverse: &FlowKey, value: &SnatValue) -> FlowKey {
    let echo = matches!(reverse.protocol(), protocol::ICMP | protocol::ICMPV6);
    let outside_port = if echo { value.port() } else { reverse.source_port() };
    forward_key((value.address(), value.port()), (reverse.source(), outside_port), reverse.protocol())
}

/// Value of `SNAT`: forward the node's address and the port taken, reverse the pod's address and port. The state of the
/// connection is in the reverse entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct SnatValue {
    last_seen: u64,
    address: Address,
    flags: FlowFlags,
    endpoint: u32,
    reserved: [u8; room(6)],
    port: [u8; 2],
}

impl SnatValue {
    /// A translation to `address` and `port` for the pod that is `endpoint` (its number in
    /// [`EndpointValue`](crate::EndpointValue), 0 when that is not known), used at `now` (nanoseconds since boot).
    #[inline(always)]
    pub const fn new(now: u64, address: Address, port: u16, flags: FlowFlags, endpoint: u32) -> Self {
        Self { last_seen: now, address, flags, endpoint, reserved: [0; room(6)], port: port.to_be_bytes() }
    }

    /// When the last packet passed, in nanoseconds since boot.
    #[inline(always)]
    pub const fn last_seen(&self) -> u64 {
        self.last_seen
    }

    /// The address.
    #[inline(always)]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// State of the connection; none in an entry of a version without it.
    #[inline(always)]
    pub const fn flags(&self) -> FlowFlags {
        self.flags
    }

    /// Number of the endpoint whose connection it is; 0 in an entry of a version without it.
    #[inline(always)]
    pub const fn endpoint(&self) -> u32 {
        self.endpoint
    }

    /// Notes whose it is in an entry of a version that did not.
    #[inline(always)]
    pub const fn adopt(&mut self, endpoint: u32) {
        if self.endpoint == 0 {
            self.endpoint = endpoint;
        }
    }

    /// Notes a packet after which the state is `flags`; writes as seldom as [`FlowValue::touch`](crate::FlowValue::touch).
    #[inline(always)]
    pub const fn touch(&mut self, now: u64, flags: FlowFlags) {
        if self.last_seen < now {
            self.last_seen = now;
        }
        if self.flags.bits() != flags.bits() {
            self.flags = flags;
        }
    }
}

record!(SnatValue { last_seen, address, flags, endpoint, port; reserved });

const _: () = assert!(size_of::<NatPorts>() == 8);
const _: () = assert!(size_of::<NatTimeouts>() == 28);
const _: () = assert!(size_of::<SnatValue>() == room(40));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_of_the_ranges_has_an_index() {
        let default = NatPorts::DEFAULT;
        assert_eq!(default.count(), 28_976 + 4_536);
        for ports in
            [default, NatPorts::one(7, 7), NatPorts::new((10, 12), (1, 2)), NatPorts::one(0, u16::MAX)]
        {
            let mut all: Vec<u16> = (0..ports.count()).map(|index| ports.nth(index)).collect();
            all.sort_unstable();
            let wanted: Vec<u16> = (0..=u16::MAX).filter(|&port| ports.contains(port)).collect();
            assert_eq!(all, wanted, "{ports:?}");
        }
        assert_eq!(NatPorts::one(0, 9).ranges()[0], (1, 9), "port 0 is none");
        assert!(NatPorts::one(9, 8).count() == 0 && !NatPorts::one(9, 8).contains(9));
    }

    #[test]
    fn ports_are_kept_as_the_standards_say() {
        let open = FlowFlags::FROM_SOURCE;
        let answered = open.with(FlowFlags::REPLIED);
        let established = answered.with(FlowFlags::ESTABLISHED);
        let seconds = |flags, number, port| NatTimeouts::DEFAULT.lifetime(flags, number, port) / SECOND;
        for (flags, number, port, wanted) in [
            (open, protocol::TCP, 443, 240),
            (answered, protocol::TCP, 443, 240),
            (established, protocol::TCP, 443, 7440),
            (established.with(FlowFlags::FIN_REPLY), protocol::TCP, 443, 7440),
            (established.with(FlowFlags::FIN_REPLY).with(FlowFlags::FIN_ORIGINAL), protocol::TCP, 443, 240),
            (established.with(FlowFlags::RESET), protocol::TCP, 443, 240),
            (open, protocol::UDP, 53, 120),
            (answered, protocol::UDP, 53, 30),
            (answered, protocol::UDP, 443, 300),
            (answered, protocol::ICMP, 7, 60),
            (answered, protocol::SCTP, 7, 300),
            (FlowFlags::NONE, protocol::UDP, 53, 8 * 3600),
        ] {
            assert_eq!(seconds(flags, number, port), wanted, "{flags:?} {number} {port}");
        }
    }

    #[test]
    fn each_direction_leads_to_the_other() {
        let ip = |last| crate::v4_mapped([10, 0, 0, last]);
        for (number, pod_port, port, outside_port) in
            [(protocol::UDP, 1000, 2000, 53), (protocol::ICMP, 7, 2000, 7), (47, 0, 0, 0)]
        {
            let (pod, outside) = ((ip(1), pod_port), (ip(3), outside_port));
            let reverse = reverse_key(outside, ip(2), port, number == protocol::ICMP, number);
            let value = SnatValue::new(0, pod.0, pod.1, FlowFlags::NONE, 0);
            assert_eq!(forward_of(&reverse, &value), forward_key(pod, outside, number), "{number}");
        }
    }
}
