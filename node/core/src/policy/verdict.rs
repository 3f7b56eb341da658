//! What policies mean, said without tables: the reference that the tables are tested against, and the answer to
//! "why does this packet not pass".

use tombolo_abi::Direction;
use tombolo_model::{Labels, Peer, Peers, Policy, PortRule, Protocol, Rule};

/// A packet that opens a connection, as one of its two ends sees it.
#[derive(Clone, Copy, Debug)]
pub struct Traffic<'a> {
    /// The labels of this end.
    pub subject: &'a Labels,
    /// Whether it comes to this end or goes out of it.
    pub direction: Direction,
    /// The labels of the other end; none for a node or anything outside of the mesh.
    pub peer: Option<&'a Labels>,
    /// Transport protocol and destination port; none for a protocol that policies do not name.
    pub port: Option<(Protocol, u16)>,
}

/// Whether the policies let the traffic through at this end. What a node sends to its own pods always passes and is
/// not asked about here.
pub fn allows<'a>(policies: impl IntoIterator<Item = &'a Policy>, traffic: &Traffic<'_>) -> bool {
    let mut isolated = false;
    for policy in policies.into_iter().filter(|policy| policy.subject.matches(traffic.subject)) {
        let rules = match traffic.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        if let Some(rules) = rules {
            isolated = true;
            if rules.iter().any(|rule| admits(rule, traffic)) {
                return true;
            }
        }
    }
    !isolated
}

fn admits(rule: &Rule, traffic: &Traffic<'_>) -> bool {
    let by_peer = match &rule.peers {
        Peers::Any => true,
        Peers::Of(peers) => peers.iter().any(|peer| match peer {
            Peer::Pods(selector) => traffic.peer.is_some_and(|labels| selector.matches(labels)),
            // Not supported yet, so nobody is meant.
            Peer::Prefix { .. } => false,
        }),
    };
    let by_port = rule.ports.is_empty()
        || traffic.port.is_some_and(|(protocol, port)| {
            rule.ports.iter().any(|PortRule { protocol: allowed, range }| {
                *allowed == protocol && range.is_none_or(|(first, last)| (first..=last).contains(&port))
            })
        });
    by_peer && by_port
}
