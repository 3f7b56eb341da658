//! Which ports masquerading may take, and for how long.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use tombolo_abi::{NatPorts, NatTimeouts};

/// Ports from the first to the last one, both included: `1024-29999`, or one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct PortRange {
    /// The first port, from 1.
    pub first: u16,
    /// The last port, not below the first.
    pub last: u16,
}

impl PortRange {
    /// The API server's default for node ports.
    pub const NODE_PORTS: Self = Self { first: 30_000, last: 32_767 };

    /// Whether both have a port.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (first, last) = s.split_once('-').unwrap_or((s, s));
        let port = |text: &str| text.trim().parse().ok().filter(|port| *port > 0);
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!(
                "range of ports {s:?} is not valid: give the first and the last one, as 1024-29999"
            )),
        }
    }
}

/// One port is a number in YAML.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Port(u16),
    Range(String),
}

impl TryFrom<Written> for PortRange {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Port(port) => port.to_string().parse(),
            Written::Range(range) => range.parse(),
        }
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The ranges that masquerading takes by default.
pub fn default_ports() -> Vec<PortRange> {
    NatPorts::DEFAULT.ranges().map(|(first, last)| PortRange { first, last }).to_vec()
}

/// One or two ranges for the datapath; none for another number of them, or when they overlap.
pub fn ports(ranges: &[PortRange]) -> Option<NatPorts> {
    match ranges {
        [one] => Some(NatPorts::one(one.first, one.last)),
        [one, two] if !one.overlaps(two) => Some(NatPorts::new((one.first, one.last), (two.first, two.last))),
        _ => None,
    }
}

/// For how long a port is kept for a connection without packets, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timeouts {
    /// TCP in both directions.
    pub tcp_established: u32,
    /// TCP while it opens or closes.
    pub tcp_transitory: u32,
    /// UDP that was answered.
    pub udp: u32,
    /// UDP that was not answered.
    pub udp_unanswered: u32,
    /// UDP that was answered by a DNS server, port 53.
    pub udp_dns: u32,
    /// Echo requests.
    pub icmp: u32,
    /// All other protocols.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        let NatTimeouts { tcp_established, tcp_transitory, udp, udp_unanswered, udp_dns, icmp, other } =
            NatTimeouts::DEFAULT;
        Self { tcp_established, tcp_transitory, udp, udp_unanswered, udp_dns, icmp, other }
    }
}

impl Timeouts {
    /// For the datapath.
    pub const fn for_datapath(&self) -> NatTimeouts {
        let Self { tcp_established, tcp_transitory, udp, udp_unanswered, udp_dns, icmp, other } = *self;
        NatTimeouts { tcp_established, tcp_transitory, udp, udp_unanswered, udp_dns, icmp, other }
    }

    /// The name of a timeout that is no time at all.
    pub fn zero(&self) -> Option<&'static str> {
        let all = [
            (self.tcp_established, "natTimeouts.tcpEstablished"),
            (self.tcp_transitory, "natTimeouts.tcpTransitory"),
            (self.udp, "natTimeouts.udp"),
            (self.udp_unanswered, "natTimeouts.udpUnanswered"),
            (self.udp_dns, "natTimeouts.udpDns"),
            (self.icmp, "natTimeouts.icmp"),
            (self.other, "natTimeouts.other"),
        ];
        all.into_iter().find(|(seconds, _)| *seconds == 0).map(|(_, name)| name)
    }
}
