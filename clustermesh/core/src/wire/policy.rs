//! Policies to and from their messages.

use std::collections::BTreeSet;

use tombolo_model::{Peer, Peers, Policy, PortRule, Requirement, Rule, Selector};

use super::{
    limits,
    parse::{self, FieldError, Result},
    proto::{self, Operator, peer},
    record::{parse_policy_key, policy_key_message},
};

pub fn message(r: &Policy) -> proto::Policy {
    let rules = |rules: &Vec<Rule>| proto::Rules { rules: rules.iter().map(rule_message).collect() };
    proto::Policy {
        key: Some(policy_key_message(&r.key)),
        subject: requirements(&r.subject),
        ingress: r.ingress.as_ref().map(rules),
        egress: r.egress.as_ref().map(rules),
    }
}

pub fn parse(m: proto::Policy) -> Result<Policy> {
    let rules = |m: proto::Rules| parse::list("policy.rules", m.rules, limits::MAX_RULES, parse_rule);
    Ok(Policy {
        key: parse_policy_key(m.key.ok_or(FieldError::Missing("policy.key"))?)?,
        subject: parse_selector(m.subject)?,
        ingress: m.ingress.map(rules).transpose()?,
        egress: m.egress.map(rules).transpose()?,
    })
}

fn rule_message(r: &Rule) -> proto::Rule {
    let peers = match &r.peers {
        Peers::Any => Vec::new(),
        Peers::Of(peers) => peers.iter().map(peer_message).collect(),
    };
    proto::Rule { any: r.peers == Peers::Any, peers, ports: r.ports.iter().map(port_message).collect() }
}

fn parse_rule(m: proto::Rule) -> Result<Rule> {
    if m.any && !m.peers.is_empty() {
        return Err(parse::invalid("policy.rules.any", "true beside a list of peers"));
    }
    let peers = parse::list("policy.rules.peers", m.peers, limits::MAX_RULE_PARTS, parse_peer)?;
    Ok(Rule {
        peers: if m.any { Peers::Any } else { Peers::Of(peers) },
        ports: parse::list("policy.rules.ports", m.ports, limits::MAX_RULE_PARTS, |p| parse_port(&p))?,
    })
}

fn peer_message(p: &Peer) -> proto::Peer {
    let body = match p {
        Peer::Pods(selector) => peer::Body::Pods(proto::Selector { requirements: requirements(selector) }),
        Peer::Prefix { prefix, except } => peer::Body::Prefix(proto::IpBlock {
            prefix: Some(parse::prefix_message(*prefix)),
            except: except.iter().copied().map(parse::prefix_message).collect(),
        }),
    };
    proto::Peer { body: Some(body) }
}

/// A peer of unknown form makes the policy invalid: leaving it out could let through what it denies.
fn parse_peer(m: proto::Peer) -> Result<Peer> {
    match m.body.ok_or(FieldError::Missing("policy.rules.peers"))? {
        peer::Body::Pods(selector) => Ok(Peer::Pods(parse_selector(selector.requirements)?)),
        peer::Body::Prefix(block) => Ok(Peer::Prefix {
            prefix: parse::prefix(
                "policy.rules.peers.prefix",
                &block.prefix.ok_or(FieldError::Missing("policy.rules.peers.prefix"))?,
            )?,
            except: parse::list("policy.rules.peers.except", block.except, limits::MAX_RULE_PARTS, |p| {
                parse::prefix("policy.rules.peers.except", &p)
            })?,
        }),
    }
}

fn requirements(selector: &Selector) -> Vec<proto::Requirement> {
    let values = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
    let message = |requirement: &Requirement| {
        let (key, operator, values) = match requirement {
            Requirement::In(key, set) => (key, Operator::In, values(set)),
            Requirement::NotIn(key, set) => (key, Operator::NotIn, values(set)),
            Requirement::Exists(key) => (key, Operator::Exists, Vec::new()),
            Requirement::DoesNotExist(key) => (key, Operator::DoesNotExist, Vec::new()),
        };
        proto::Requirement { key: key.clone(), operator: operator.into(), values }
    };
    selector.0.iter().map(message).collect()
}

fn parse_selector(list: Vec<proto::Requirement>) -> Result<Selector> {
    let field = "policy.selector";
    Ok(parse::list(field, list, limits::MAX_REQUIREMENTS, parse_requirement)?.into_iter().collect())
}

fn parse_requirement(m: proto::Requirement) -> Result<Requirement> {
    let key = parse::text("policy.selector.key", m.key, limits::MAX_LABEL_KEY)?;
    let values = parse::list("policy.selector.values", m.values, limits::MAX_VALUES, |v| {
        parse::text("policy.selector.values", v, limits::MAX_LABEL_VALUE)
    })?;
    let values = values.into_iter().collect();
    Ok(match Operator::try_from(m.operator) {
        Ok(Operator::In) => Requirement::In(key, values),
        Ok(Operator::NotIn) => Requirement::NotIn(key, values),
        Ok(Operator::Exists) => Requirement::Exists(key),
        Ok(Operator::DoesNotExist) => Requirement::DoesNotExist(key),
        Ok(Operator::Unset) | Err(_) => return Err(parse::invalid("policy.selector.operator", m.operator)),
    })
}

fn port_message(p: &PortRule) -> proto::PortRule {
    proto::PortRule {
        protocol: p.protocol.number().into(),
        first: p.range.map(|(first, _)| first.into()),
        last: p.range.map(|(_, last)| last.into()),
    }
}

fn parse_port(m: &proto::PortRule) -> Result<PortRule> {
    let bound = |port: u32| u16::try_from(port).map_err(|_| parse::invalid("policy.rules.ports", port));
    let range = match (m.first, m.last) {
        (None, None) => None,
        (Some(first), Some(last)) if first <= last => Some((bound(first)?, bound(last)?)),
        (first, last) => {
            return Err(parse::invalid("policy.rules.ports", format_args!("{first:?}..={last:?}")));
        }
    };
    Ok(PortRule { protocol: parse::protocol("policy.rules.ports.protocol", m.protocol)?, range })
}
