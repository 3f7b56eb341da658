//! Changes as lines of text. Indented lines belong to the line above; `#` begins a comment.
//!
//! ```text
//! own <cluster> <node> [<address> …]
//! node <cluster> <name> [<address> | <prefix> | key=<byte>:<port> …]
//! identity <cluster>:<number> <label>=<value> …
//! pod <cluster> <namespace>/<name> <node> <identity> [<address> …]
//! local <namespace>/<name> <identity> [<address> …]         a pod is wired up here
//! unlocal <namespace>/<name>
//! service <cluster> <namespace>/<name> <frontend> … [affinity=<affinity>]
//!   port <protocol>/<port> [<address>:<port>@<cluster>[!terminating | !notready] …]
//! policy <namespace>/<name> <selector>
//!   ingress | egress [any | none | <selector> | <prefix>] [<protocol>[/<port>[-<port>]] …]
//! delete node | identity | pod | service | policy <key as above>
//! begin-sync | sync | settle
//! ```
//! A selector is `{<label>=<value>,<label>!=<value>,<label>,!<label>}`, all of them to be met.

use std::net::SocketAddr;

use tombolo_model::{
    Affinity, Backend, BackendState, ClusterId, EndpointRecord, Identity, IdentityRecord, NodeRecord, Peer,
    Peers, Policy, PolicyKey, PolicyKind, PortRule, Protocol, Record, RecordKey, Requirement, Rule, Selector,
    ServicePort, ServiceRecord, TunnelKey,
};
use tombolo_node_core::{
    endpoints::{AttachmentId, Endpoints, PodRef, Wiring},
    policy::SelectorBits,
    state::{Change, OwnNode, State},
};

pub(crate) fn play(changes: &str, state: &mut Option<State>) {
    let lines = changes.lines().map(|line| line.split('#').next().unwrap_or("").trim_end());
    let mut blocks: Vec<(Vec<&str>, Vec<Vec<&str>>)> = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let words = line.split_whitespace().collect();
        if line.starts_with(' ') {
            blocks.last_mut().expect("a line to belong to").1.push(words);
        } else {
            blocks.push((words, Vec::new()));
        }
    }
    for (words, more) in blocks {
        if words[0] == "own" {
            let addresses = words[3..].iter().map(|a| a.parse().unwrap()).collect();
            let own = OwnNode { cluster: cluster(words[1]), name: words[2].to_owned(), addresses };
            *state = Some(State::new(own, Endpoints::default(), SelectorBits::default()));
        } else {
            let state = state.as_mut().expect("own … comes first");
            step(&words, &more, state);
        }
    }
}

fn step(words: &[&str], more: &[Vec<&str>], state: &mut State) {
    match words {
        ["begin-sync"] => state.begin_sync(),
        ["sync"] => state.complete_sync(),
        ["settle"] => {
            state.identity().take_changed();
            state.policy().take_changed();
            state.settle_policies();
            state.refresh();
        }
        ["local", name, id, addresses @ ..] => {
            state.add_endpoint(wiring(name, id, addresses)).unwrap();
        }
        ["unlocal", name] => {
            state.remove_endpoint(&attachment(name)).expect("a local endpoint");
        }
        ["delete", kind, key @ ..] => state.apply(Change::Delete(key_of(kind, key))),
        ["node", key @ ..] => state.apply(Change::Upsert(Record::Node(node(key)))),
        ["identity", id, labels @ ..] => {
            let labels = labels.iter().map(|label| owned(label.split_once('=').unwrap())).collect();
            state.apply(Change::Upsert(Record::Identity(IdentityRecord { id: identity(id), labels })));
        }
        ["pod", cluster_id, name, node, id, addresses @ ..] => {
            let (namespace, name) = owned(name.split_once('/').unwrap());
            state.apply(Change::Upsert(Record::Endpoint(EndpointRecord {
                cluster: cluster(cluster_id),
                uid: format!("uid-{name}"),
                namespace,
                name,
                node: (*node).to_owned(),
                addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
                identity: identity(id),
            })));
        }
        ["service", key @ ..] => state.apply(Change::Upsert(Record::Service(service(key, more)))),
        ["policy", name, subject] => state.apply(Change::Upsert(Record::Policy(policy(name, subject, more)))),
        other => panic!("cannot read {other:?}"),
    }
}

fn owned((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

fn cluster(text: &str) -> ClusterId {
    ClusterId::try_from(text.parse::<u16>().unwrap()).unwrap()
}

fn identity(text: &str) -> Identity {
    let (cluster_id, number) = text.split_once(':').unwrap();
    Identity::new(cluster(cluster_id), number.parse().unwrap()).unwrap()
}

fn attachment(name: &str) -> AttachmentId {
    AttachmentId { container: name.to_owned(), interface: "eth0".to_owned() }
}

fn wiring(name: &str, id: &str, addresses: &[&str]) -> Wiring {
    let (namespace, pod) = owned(name.split_once('/').unwrap());
    Wiring {
        attachment: attachment(name),
        pod: PodRef { namespace, uid: format!("uid-{pod}"), name: pod },
        netns: String::new(),
        host_interface: String::new(),
        ifindex: 1,
        host_mac: [2, 0, 0, 0, 0, 1],
        pod_mac: [2, 0, 0, 0, 0, 2],
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        identity: identity(id),
    }
}

fn policy_key(name: &str) -> PolicyKey {
    let (namespace, name) = owned(name.split_once('/').unwrap());
    PolicyKey { kind: PolicyKind::NetworkPolicy, namespace, name }
}

fn key_of(kind: &str, key: &[&str]) -> RecordKey {
    let named = |name: &str| owned(name.split_once('/').unwrap());
    match (kind, key) {
        ("identity", [id]) => RecordKey::Identity(identity(id)),
        ("node", [c, name]) => RecordKey::Node(cluster(c), (*name).to_owned()),
        ("pod", [c, name]) => RecordKey::Endpoint(cluster(c), named(name).0, named(name).1),
        ("service", [c, name]) => RecordKey::Service(cluster(c), named(name).0, named(name).1),
        ("policy", [name]) => RecordKey::Policy(policy_key(name)),
        other => panic!("cannot read delete {other:?}"),
    }
}

fn node(words: &[&str]) -> NodeRecord {
    let mut node = NodeRecord {
        cluster: cluster(words[0]),
        name: words[1].to_owned(),
        addresses: vec![],
        pod_prefixes: vec![],
        zone: String::new(),
        tunnel: None,
    };
    for word in &words[2..] {
        if let Some((byte, port)) = word.strip_prefix("key=").and_then(|key| key.split_once(':')) {
            let public_key = [u8::from_str_radix(byte, 16).unwrap(); 32];
            node.tunnel = Some(TunnelKey { public_key, port: port.parse().unwrap() });
        } else if word.contains('/') {
            node.pod_prefixes.push(word.parse().unwrap());
        } else {
            node.addresses.push(word.parse().unwrap());
        }
    }
    node
}

fn service(words: &[&str], ports: &[Vec<&str>]) -> ServiceRecord {
    let (namespace, name) = owned(words[1].split_once('/').unwrap());
    let mut service = ServiceRecord {
        cluster: cluster(words[0]),
        namespace,
        name,
        frontends: vec![],
        global: false,
        shared: false,
        affinity: Affinity::None,
        on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
        ports: vec![],
    };
    for word in &words[2..] {
        match word.strip_prefix("affinity=") {
            Some(affinity) => service.affinity = serde_yaml_ng::from_str(affinity).unwrap(),
            None => service.frontends.push(word.parse().unwrap()),
        }
    }
    for words in ports {
        let (protocol, port) = words[1].split_once('/').unwrap();
        service.ports.push(ServicePort {
            name: String::new(),
            protocol: protocol.parse().unwrap(),
            port: port.parse().unwrap(),
            backends: words[2..].iter().map(|word| backend(word)).collect(),
        });
    }
    service
}

fn backend(word: &str) -> Backend {
    let (place, state) = word.split_once('!').unwrap_or((word, "ready"));
    let (address, cluster_id) = place.split_once('@').unwrap();
    let address: SocketAddr = address.parse().unwrap();
    Backend {
        address: address.ip().into(),
        port: address.port(),
        cluster: cluster(cluster_id),
        node: String::new(),
        zone: String::new(),
        state: match state {
            "ready" => BackendState::Ready,
            "terminating" => BackendState::Terminating,
            "notready" => BackendState::NotReady,
            other => panic!("cannot read backend state {other}"),
        },
    }
}

fn policy(name: &str, subject: &str, lines: &[Vec<&str>]) -> Policy {
    let mut policy =
        Policy { key: policy_key(name), subject: selector(subject), ingress: None, egress: None };
    for words in lines {
        let rules = match words[0] {
            "ingress" => policy.ingress.get_or_insert_default(),
            "egress" => policy.egress.get_or_insert_default(),
            other => panic!("cannot read direction {other}"),
        };
        let peers = match words[1] {
            "none" => continue,
            "any" => Peers::Any,
            peer if peer.starts_with('{') => Peers::Of(vec![Peer::Pods(selector(peer))]),
            prefix => Peers::Of(vec![Peer::Prefix { prefix: prefix.parse().unwrap(), except: vec![] }]),
        };
        rules.push(Rule { peers, ports: words[2..].iter().map(|word| port_rule(word)).collect() });
    }
    policy
}

fn port_rule(word: &str) -> PortRule {
    let (protocol, ports) =
        word.split_once('/').map_or((word, None), |(protocol, ports)| (protocol, Some(ports)));
    let protocol: Protocol = protocol.parse().unwrap();
    let range = ports.map(|ports| {
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        (first.parse().unwrap(), last.parse().unwrap())
    });
    PortRule { protocol, range }
}

fn selector(text: &str) -> Selector {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).expect("{selector}");
    let requirement = |text: &str| {
        if let Some((key, value)) = text.split_once("!=") {
            Requirement::NotIn(key.to_owned(), [value.to_owned()].into())
        } else if let Some((key, value)) = text.split_once('=') {
            Requirement::equals(key, value)
        } else if let Some(key) = text.strip_prefix('!') {
            Requirement::DoesNotExist(key.to_owned())
        } else {
            Requirement::Exists(text.to_owned())
        }
    };
    inner.split(',').filter(|text| !text.is_empty()).map(requirement).collect()
}

/// Every record that the state holds.
pub(crate) fn all_records(state: &State) -> Vec<Record> {
    let records = state.records();
    let identities = records.identities().iter();
    let identities =
        identities.map(|(id, labels)| Record::Identity(IdentityRecord { id: *id, labels: labels.clone() }));
    identities
        .chain(records.nodes().values().cloned().map(Record::Node))
        .chain(records.endpoints().values().cloned().map(Record::Endpoint))
        .chain(state.foreign_endpoints().map(Record::Endpoint))
        .chain(records.services().values().cloned().map(Record::Service))
        .chain(records.policies().values().cloned().map(Record::Policy))
        .collect()
}
