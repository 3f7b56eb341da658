//! From a NetworkPolicy's spec to the model, as the clustermesh daemon does it for the one cluster of these cases.

use std::collections::BTreeSet;

use serde_json::Value;
use tombolo_model::{
    Peer, Peers, Policy, PolicyKey, PolicyKind, PortRule, Protocol, Requirement, Rule, Selector, label,
};

pub(crate) fn key(namespace: &str, name: &str) -> PolicyKey {
    PolicyKey { kind: PolicyKind::NetworkPolicy, namespace: namespace.to_owned(), name: name.to_owned() }
}

pub(crate) fn from_spec(namespace: &str, name: &str, spec: &Value) -> Policy {
    let isolates = |direction: &str| spec["policyTypes"].as_array().unwrap().iter().any(|t| t == direction);
    let rules = |direction: &str, list: &str, peers: &str| {
        isolates(direction)
            .then(|| each(&spec[list]).map(|rule_spec| rule(namespace, rule_spec, peers)).collect())
    };
    Policy {
        key: key(namespace, name),
        subject: in_namespace(namespace).chain(requirements(&spec["podSelector"], label::pod)).collect(),
        ingress: rules("Ingress", "ingress", "from"),
        egress: rules("Egress", "egress", "to"),
    }
}

fn each(list: &Value) -> std::slice::Iter<'_, Value> {
    list.as_array().map_or([].iter(), |list| list.iter())
}

fn rule(namespace: &str, spec: &Value, peers: &str) -> Rule {
    let peers = match each(&spec[peers]).map(|peer_spec| peer(namespace, peer_spec)).collect::<Vec<_>>() {
        none if none.is_empty() => Peers::Any,
        some => Peers::Of(some),
    };
    Rule { peers, ports: each(&spec["ports"]).map(port_rule).collect() }
}

fn peer(namespace: &str, spec: &Value) -> Peer {
    if let Some(block) = spec.get("ipBlock") {
        return Peer::Prefix { prefix: block["cidr"].as_str().unwrap().parse().unwrap(), except: vec![] };
    }
    let pods = requirements(&spec["podSelector"], label::pod);
    let selector: Selector = match spec.get("namespaceSelector") {
        Some(namespaces) => requirements(namespaces, label::namespace).chain(pods).collect(),
        None => in_namespace(namespace).chain(pods).collect(),
    };
    Peer::Pods(selector)
}

fn in_namespace(namespace: &str) -> impl Iterator<Item = Requirement> + use<> {
    [Requirement::equals(label::NAMESPACE, namespace)].into_iter()
}

fn requirements(selector: &Value, key: fn(&str) -> String) -> impl Iterator<Item = Requirement> {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let labels = labels.map(move |(k, v)| Requirement::equals(key(k), v.as_str().unwrap()));
    labels.chain(each(&selector["matchExpressions"]).map(move |expression| {
        let key = key(expression["key"].as_str().unwrap());
        let values: BTreeSet<String> =
            each(&expression["values"]).map(|value| value.as_str().unwrap().to_owned()).collect();
        match expression["operator"].as_str().unwrap() {
            "In" => Requirement::In(key, values),
            "NotIn" => Requirement::NotIn(key, values),
            other => panic!("unknown operator {other}"),
        }
    }))
}

/// The pods of the suite name their ports `serve-<number>-<protocol>`.
fn port_rule(spec: &Value) -> PortRule {
    let protocol = spec["protocol"].as_str().unwrap_or("TCP");
    let port = match &spec["port"] {
        Value::Null => None,
        Value::Number(number) => Some(number.as_u64().unwrap()),
        Value::String(name) => {
            let (number, named) = name.strip_prefix("serve-").unwrap().split_once('-').unwrap();
            assert!(named.eq_ignore_ascii_case(protocol));
            Some(number.parse().unwrap())
        }
        other => panic!("unknown port {other}"),
    };
    let port = port.map(|port| u16::try_from(port).unwrap());
    PortRule { protocol: protocol.parse::<Protocol>().unwrap(), range: port.map(|port| (port, port)) }
}
