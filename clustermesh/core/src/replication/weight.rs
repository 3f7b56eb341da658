//! How much memory a record takes, roughly: enough to bound what a peer can make a receiver hold.

use tombolo_model::{Peer, Peers, Policy, Record, Requirement, Rule, Selector, ServiceRecord};

/// What every allocation and map entry costs beside its content, in bytes.
const OVERHEAD: usize = 64;

/// Bytes of memory, roughly.
pub fn weight(record: &Record) -> usize {
    let content = match record {
        Record::Identity(r) => r.labels.0.iter().map(|(k, v)| k.len() + v.len() + OVERHEAD).sum(),
        Record::Node(r) => {
            r.name.len() + r.zone.len() + r.addresses.len() * 16 + r.pod_prefixes.len() * 17 + OVERHEAD
        }
        Record::Endpoint(r) => {
            r.namespace.len() + r.name.len() + r.uid.len() + r.node.len() + r.addresses.len() * 16 + OVERHEAD
        }
        Record::Service(r) => service(r),
        Record::Policy(r) => policy(r),
    };
    content + 4 * OVERHEAD
}

fn service(r: &ServiceRecord) -> usize {
    let backends = r.ports.iter().flat_map(|p| &p.backends);
    let backends: usize = backends.map(|b| b.node.len() + b.zone.len() + 2 * OVERHEAD).sum();
    let ports: usize = r.ports.iter().map(|p| p.name.len() + OVERHEAD).sum();
    r.namespace.len() + r.name.len() + r.frontends.len() * 16 + ports + backends
}

fn policy(r: &Policy) -> usize {
    let rules = r.ingress.iter().chain(&r.egress).flatten();
    selector(&r.subject) + rules.map(rule).sum::<usize>()
}

fn rule(r: &Rule) -> usize {
    let peers = match &r.peers {
        Peers::Any => 0,
        Peers::Of(peers) => peers.iter().map(peer).sum(),
    };
    peers + r.ports.len() * OVERHEAD + OVERHEAD
}

fn peer(p: &Peer) -> usize {
    match p {
        Peer::Pods(s) => selector(s),
        Peer::Prefix { except, .. } => except.len() * 17 + OVERHEAD,
    }
}

fn selector(s: &Selector) -> usize {
    let requirement = |r: &Requirement| match r {
        Requirement::In(k, v) | Requirement::NotIn(k, v) => {
            k.len() + OVERHEAD + v.iter().map(|v| v.len() + OVERHEAD).sum::<usize>()
        }
        Requirement::Exists(k) | Requirement::DoesNotExist(k) => k.len() + OVERHEAD,
    };
    s.0.iter().map(requirement).sum()
}
