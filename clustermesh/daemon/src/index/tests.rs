//! Kubernetes objects go in, records come out.

mod policies;
mod services;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use serde::de::DeserializeOwned;
use tombolo_api::MeshIdentity;
use tombolo_mesh_core::wire::{EndpointFact, NodeFacts};
use tombolo_model::{Address, EndpointRecord, Identity, TunnelKey};

use super::*;

fn index() -> Index {
    Index::new("east".parse().unwrap(), ClusterId::try_from(1).unwrap())
}

fn yaml<K: DeserializeOwned>(text: &str) -> K {
    serde_yaml_ng::from_str(text).unwrap()
}

fn namespace(name: &str) -> Namespace {
    yaml(&format!("metadata: {{name: {name}, labels: {{team: {name}}}}}"))
}

fn pod(name: &str, labels: &str) -> Pod {
    yaml(&format!(
        "metadata: {{namespace: shop, name: {name}, uid: uid-{name}, labels: {{{labels}}}}}
spec: {{nodeName: n1, serviceAccountName: sa, containers: [{{name: c, ports: [{{name: http, containerPort: 8080}}]}}]}}"
    ))
}

fn node() -> Node {
    yaml(
        "metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}
status: {addresses: [{type: Hostname, address: n1}, {type: InternalIP, address: 192.0.2.1}]}",
    )
}

/// Creates every identity that is wanted, as the shell does.
fn make_identities(index: &mut Index) {
    for identity in index.wanted_identities(usize::MAX).unwrap() {
        index.apply(identity);
    }
}

fn endpoint(index: &Index, name: &str) -> Option<EndpointRecord> {
    index.records().find_map(|record| match record {
        Record::Endpoint(endpoint) if endpoint.name == name => Some(endpoint.clone()),
        _ => None,
    })
}

/// One line for each change: the kind and the name.
fn summary(transaction: &Transaction) -> Vec<String> {
    let line = |change: &Change| match change {
        Change::Upsert(record) => format!("+{:?}", record.key()),
        Change::Remove(key) => format!("-{key:?}"),
    };
    transaction.iter().map(line).collect()
}

#[test]
fn an_endpoint_comes_with_its_identity() {
    let mut index = index();
    index.apply(pod("web-0", "app: web, pod-template-hash: x1"));
    assert!(
        index.take().is_empty() && index.wanted_identities(1).unwrap().is_empty(),
        "namespace is not known yet"
    );
    index.apply(namespace("shop"));
    assert!(index.take().is_empty(), "identity is not made yet");
    let identity = index.wanted_identities(1).unwrap().remove(0);
    assert_eq!(identity.metadata.name.as_deref(), Some("1048832"));
    let labels = [
        ("io:cluster", "east"),
        ("io:namespace", "shop"),
        ("io:serviceaccount", "sa"),
        ("ns:team", "shop"),
        ("pod:app", "web"),
    ];
    let labels = labels.map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(identity.spec.labels, BTreeMap::from(labels));
    index.apply(identity);
    let changes = summary(&index.take());
    assert_eq!(changes, ["+Identity(1:256)", "+Endpoint(ClusterId(1), \"shop\", \"web-0\")"]);
    assert_eq!(endpoint(&index, "web-0").unwrap().uid, "uid-web-0");
}

#[test]
fn pods_with_equal_labels_share_an_identity_until_the_last_is_gone() {
    let mut index = index();
    index.apply(namespace("shop"));
    for name in ["a", "b"] {
        index.apply(pod(name, &format!("app: web, statefulset.kubernetes.io/pod-name: {name}")));
    }
    make_identities(&mut index);
    assert_eq!(endpoint(&index, "a").unwrap().identity, endpoint(&index, "b").unwrap().identity);
    let identity = endpoint(&index, "a").unwrap().identity;
    index.delete(&pod("a", ""));
    assert!(index.unused_identities().is_empty());
    index.delete(&pod("b", ""));
    assert_eq!(index.unused_identities(), [identity]);
    index.take();
    index.replace::<MeshIdentity>(Vec::new());
    assert_eq!(summary(&index.take()), ["-Identity(1:256)"]);
}

#[test]
fn an_identity_deleted_while_in_use_is_made_again_with_its_number() {
    let mut index = index();
    index.apply(namespace("shop"));
    index.apply(pod("a", "app: web"));
    let identity = index.wanted_identities(1).unwrap().remove(0);
    index.apply(identity.clone());
    index.take();
    index.delete(&identity);
    assert!(index.take().is_empty());
    assert_eq!(index.wanted_identities(1).unwrap().remove(0).metadata.name, identity.metadata.name);
}

#[test]
fn changed_labels_move_the_endpoint_in_one_transaction() {
    let mut index = index();
    index.apply(namespace("shop"));
    index.apply(pod("a", "app: web"));
    make_identities(&mut index);
    index.take();
    index.apply(pod("a", "app: db"));
    assert!(index.take().is_empty(), "the old record stands until the new identity is made");
    make_identities(&mut index);
    let changes = summary(&index.take());
    assert_eq!(changes, ["+Identity(1:257)", "+Endpoint(ClusterId(1), \"shop\", \"a\")"]);
    let relabelled: Namespace = yaml("metadata: {name: shop, labels: {team: other}}");
    index.apply(relabelled);
    make_identities(&mut index);
    assert_eq!(endpoint(&index, "a").unwrap().identity.local(), 258);
}

#[test]
fn host_network_and_finished_pods_have_no_endpoint() {
    let mut index = index();
    index.apply(namespace("shop"));
    let mut host = pod("host", "app: web");
    host.spec.as_mut().unwrap().host_network = Some(true);
    index.apply(host);
    let mut job = pod("job", "app: job");
    index.apply(job.clone());
    make_identities(&mut index);
    assert!(endpoint(&index, "host").is_none() && endpoint(&index, "job").is_some());
    job.status = yaml("phase: Succeeded");
    index.apply(job);
    assert!(endpoint(&index, "job").is_none());
}

#[test]
fn nodes_report_tunnels_and_addresses_of_their_own_pods_only() {
    let mut index = index();
    index.apply(node());
    index.apply(namespace("shop"));
    index.apply(pod("a", "app: web"));
    make_identities(&mut index);
    let address = |text: &str| text.parse::<Address>().unwrap();
    let reported = |name: &str, uid: &str, ip: &str| EndpointFact {
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
        addresses: vec![address(ip)],
    };
    let tunnel = TunnelKey { public_key: [7; 32], port: 51871 };
    let endpoints = vec![reported("a", "uid-a", "10.1.0.5"), reported("b", "uid-b", "10.2.0.5")];
    let refused = index.report("n1", NodeFacts { tunnel: Some(tunnel), endpoints, ..NodeFacts::default() });
    assert_eq!(refused, [address("10.2.0.5")]);
    assert_eq!(endpoint(&index, "a").unwrap().addresses, [address("10.1.0.5")]);
    let node = index.records().find_map(|r| if let Record::Node(n) = r { Some(n.clone()) } else { None });
    let node = node.unwrap();
    assert_eq!((node.tunnel, node.zone.as_str()), (Some(tunnel), "z1"));
    assert_eq!(node.addresses, [address("192.0.2.1")]);

    let old_uid = vec![reported("a", "uid-of-predecessor", "10.1.0.6")];
    index.report("n1", NodeFacts { tunnel: None, endpoints: old_uid, ..NodeFacts::default() });
    assert!(endpoint(&index, "a").unwrap().addresses.is_empty());
    let other_node = vec![reported("a", "uid-a", "10.1.0.7")];
    assert_eq!(
        index.report("n2", NodeFacts { tunnel: None, endpoints: other_node, ..NodeFacts::default() }),
        [address("10.1.0.7")]
    );
    assert!(endpoint(&index, "a").unwrap().addresses.is_empty());
}

#[test]
fn a_new_leader_knows_the_tunnels_that_were_kept() {
    let tunnel = |index: &Index| {
        index.records().find_map(|r| if let Record::Node(n) = r { Some(n.tunnel) } else { None }).unwrap()
    };
    let key = TunnelKey { public_key: [7; 32], port: 51871 };
    let mut index = index();
    index.apply(node());
    assert!(index.unkept_nodes().is_empty(), "a node that has not reported");
    index.report("n1", NodeFacts { tunnel: Some(key), endpoints: Vec::new(), ..NodeFacts::default() });
    let [kept] = index.unkept_nodes().try_into().unwrap();
    assert_eq!(kept.metadata.owner_references.as_ref().unwrap()[0].kind, "Node");
    index.apply(kept.clone());
    assert!(index.unkept_nodes().is_empty());

    let mut next = self::index();
    next.apply(kept.clone());
    next.apply(node());
    assert_eq!(tunnel(&next), Some(key));
    assert!(next.unkept_nodes().is_empty(), "what was kept is not known to be wrong");
    next.report("n1", NodeFacts { tunnel: None, endpoints: Vec::new(), ..NodeFacts::default() });
    assert_eq!(tunnel(&next), None, "what a node reports counts");

    let mut edited = kept;
    edited.spec.tunnel.as_mut().unwrap().public_key = "no key".to_owned();
    let mut other = self::index();
    other.apply(node());
    other.apply(edited);
    assert_eq!(tunnel(&other), None);
}

#[test]
fn a_fresh_list_removes_what_it_lacks() {
    let mut index = index();
    index.apply(namespace("shop"));
    index.replace(vec![pod("a", "app: web"), pod("b", "app: web")]);
    make_identities(&mut index);
    index.take();
    index.replace(vec![pod("b", "app: web")]);
    assert_eq!(summary(&index.take()), ["-Endpoint(ClusterId(1), \"shop\", \"a\")"]);
}

#[test]
fn identities_of_another_cluster_are_not_taken_over() {
    let mut index = index();
    let foreign: MeshIdentity = yaml("metadata: {name: '2097408'}\nspec: {labels: {'io:cluster': west}}");
    index.apply(foreign);
    let renamed: MeshIdentity = yaml("metadata: {name: '1048832'}\nspec: {labels: {'io:cluster': old-name}}");
    index.apply(renamed);
    assert!(index.take().is_empty());
    assert_eq!(index.allocator.free().next(), Identity::new(index.id, 257));
    assert_eq!(Identity::from_bits(1_048_832).to_string(), "1:256");
}
