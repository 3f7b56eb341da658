//! Ports of rules; named ones are looked up in the pods that the traffic goes to.

use std::collections::BTreeSet;

use tombolo_model::{Labels, Peer, PortRule, Protocol, Selector};

use super::{
    super::Index,
    source::{PortName, PortSource},
};

/// Whom the traffic of a rule goes to.
pub(super) enum Destination<'a> {
    /// The pods that the policy protects.
    Subject(&'a Selector),
    /// The peers of the rule.
    Peers(&'a [Peer]),
    /// Everybody.
    Anybody,
}

pub(super) struct Ports<'a> {
    pub(super) index: &'a Index,
    pub(super) destination: &'a Destination<'a>,
    /// Set when one of the ports was a name.
    pub(super) named: bool,
}

impl Ports<'_> {
    /// None for a named port that no pod has.
    pub(super) fn compile(&mut self, port: &PortSource) -> Result<Option<PortRule>, String> {
        let protocol: Protocol = port
            .protocol
            .parse()
            .map_err(|()| format!("protocol {:?} is not supported: use TCP, UDP or SCTP", port.protocol))?;
        let rule = |range| Some(PortRule { protocol, range });
        match (&port.port, port.end) {
            (None, None) => Ok(rule(None)),
            (None, Some(_)) => Err("endPort needs a port".to_owned()),
            (Some(PortName::Number(first)), end) => {
                let last = end.unwrap_or(*first);
                match (u16::try_from(*first), u16::try_from(last)) {
                    (Ok(first @ 1..), Ok(last)) if first <= last => Ok(rule(Some((first, last)))),
                    _ => Err(format!("ports {first} to {last} are no range within 1 to 65535")),
                }
            }
            (Some(PortName::Name(_)), Some(_)) => Err("endPort needs a port that is a number".to_owned()),
            (Some(PortName::Name(name)), None) => {
                self.named = true;
                Ok(self.named(name, protocol)?.and_then(|port| rule(Some((port, port)))))
            }
        }
    }

    fn named(&self, name: &str, protocol: Protocol) -> Result<Option<u16>, String> {
        let matches = |labels: &Labels| match self.destination {
            Destination::Subject(subject) => subject.matches(labels),
            Destination::Peers(peers) => {
                peers.iter().any(|peer| matches!(peer, Peer::Pods(selector) if selector.matches(labels)))
            }
            Destination::Anybody => true,
        };
        if matches!(self.destination, Destination::Anybody) {
            return Err(format!("named port {name:?} needs peers to look it up in; use its number"));
        }
        let mut numbers = BTreeSet::new();
        let mut missing = false;
        for pod in self.index.pods.values().filter(|pod| pod.flat.as_ref().is_some_and(matches)) {
            let port = pod.ports.iter().find(|(n, p, _)| (n.as_str(), *p) == (name, protocol));
            match port {
                Some(&(_, _, number)) => drop(numbers.insert(number)),
                None => missing = true,
            }
        }
        // One number for all of them, or a pod would be open on a port that the policy does not mean.
        if numbers.len() > 1 {
            let numbers = numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(format!("named port {name:?} is {numbers} in different pods; use numbers"));
        }
        if missing && !numbers.is_empty() {
            return Err(format!("named port {name:?} is missing in some of the pods; use its number"));
        }
        Ok(numbers.first().copied())
    }
}
