//! NetworkPolicy and MeshNetworkPolicy, as a golden text: each resource with the policy it becomes.

use std::fmt::Write;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use tombolo_api::MeshNetworkPolicy;
use tombolo_model::{Peer, Peers, Policy, Requirement, Rule, Selector};

use super::*;

fn selector(selector: &Selector) -> String {
    let requirement = |r: &Requirement| {
        let list = |values: &BTreeSet<String>| values.iter().cloned().collect::<Vec<_>>().join("|");
        match r {
            Requirement::In(key, values) => format!("{key}={}", list(values)),
            Requirement::NotIn(key, values) => format!("{key}!={}", list(values)),
            Requirement::Exists(key) => key.clone(),
            Requirement::DoesNotExist(key) => format!("!{key}"),
        }
    };
    format!("{{{}}}", selector.0.iter().map(requirement).collect::<Vec<_>>().join(" "))
}

fn rule(rule: &Rule) -> String {
    let peers = match &rule.peers {
        Peers::Any => "anybody".to_owned(),
        Peers::Of(peers) => {
            let peer = |peer: &Peer| match peer {
                Peer::Pods(pods) => selector(pods),
                Peer::Prefix { prefix, except } => format!("{prefix} but {except:?}"),
            };
            format!("[{}]", peers.iter().map(peer).collect::<Vec<_>>().join(", "))
        }
    };
    let port = |port: &tombolo_model::PortRule| match port.range {
        Some((first, last)) => format!("{}/{first}-{last}", port.protocol),
        None => port.protocol.to_string(),
    };
    let ports = rule.ports.iter().map(port).collect::<Vec<_>>().join(",");
    format!("{peers} {}", if ports.is_empty() { "all ports" } else { &ports })
}

fn describe(policy: Option<&Policy>, findings: &[PolicyFinding]) -> String {
    let mut text = String::new();
    match policy {
        None => text.push_str("  no policy\n"),
        Some(policy) => {
            writeln!(text, "  protects {}", selector(&policy.subject)).unwrap();
            for (direction, rules) in [("in", &policy.ingress), ("out", &policy.egress)] {
                for line in rules.iter().flatten().map(rule) {
                    writeln!(text, "  {direction} {line}").unwrap();
                }
                if rules.as_ref().is_some_and(Vec::is_empty) {
                    writeln!(text, "  {direction} nothing").unwrap();
                }
            }
        }
    }
    for problem in findings.iter().flat_map(|f| &f.problems) {
        writeln!(text, "  ! {problem}").unwrap();
    }
    text
}

fn compile(index: &mut Index, kind: &str, spec: &str) -> String {
    let text = format!("{{metadata: {{namespace: shop, name: p, generation: 3}}, spec: {spec}}}");
    match kind {
        "mesh" => index.apply(yaml::<MeshNetworkPolicy>(&text)),
        _ => index.apply(yaml::<NetworkPolicy>(&text)),
    }
    let policy = index.records().find_map(|r| if let Record::Policy(p) = r { Some(p.clone()) } else { None });
    let findings = index.take_findings();
    index.replace::<NetworkPolicy>(Vec::new());
    index.replace::<MeshNetworkPolicy>(Vec::new());
    describe(policy.as_ref(), &findings)
}

#[test]
fn golden() {
    let golden = include_str!("policies.golden");
    let mut index = index();
    index.apply(namespace("shop"));
    index.apply(pod("web", "app: web"));
    let mut sidecar = pod("plain", "app: plain");
    sidecar.spec.as_mut().unwrap().containers[0].ports = None;
    index.apply(sidecar);
    let mut actual = String::new();
    for case in golden.lines().filter(|line| line.starts_with("np ") || line.starts_with("mesh ")) {
        let (kind, spec) = case.split_once(' ').unwrap();
        writeln!(actual, "{case}\n{}", compile(&mut index, kind, spec)).unwrap();
    }
    let head: String = golden.lines().take_while(|l| l.starts_with('#')).map(|l| format!("{l}\n")).collect();
    let actual = format!("{head}\n{}\n", actual.trim_end());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/index/tests/policies.golden");
        std::fs::write(path, &actual).unwrap();
    }
    assert_eq!(actual, golden, "UPDATE_GOLDEN=1 writes what is now");
}

#[test]
fn named_ports_follow_the_pods() {
    let mut index = index();
    index.apply(namespace("shop"));
    let policy = "{metadata: {namespace: shop, name: p}, spec: {podSelector: {matchLabels: {app: web}}, \
                  ingress: [{ports: [{port: http}]}]}}";
    index.apply(yaml::<NetworkPolicy>(policy));
    let ranges = |index: &Index| {
        let policy =
            index.records().find_map(|r| if let Record::Policy(p) = r { Some(p.clone()) } else { None });
        let rules = policy.unwrap().ingress.unwrap();
        rules.iter().flat_map(|r| &r.ports).filter_map(|p| p.range).collect::<Vec<_>>()
    };
    assert!(ranges(&index).is_empty() && index.take_findings()[0].problems.is_empty());
    index.apply(pod("a", "app: web"));
    assert_eq!(ranges(&index), [(8080, 8080)]);
    let mut other = pod("b", "app: web");
    other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 80;
    index.apply(other);
    assert!(ranges(&index).is_empty());
    assert_eq!(
        index.take_findings()[0].problems,
        [
            "ingress[0].ports[0]: named port \"http\" is 80, 8080 in different pods; use numbers; it lets nothing \
          through"
        ]
    );
    index.delete(&pod("b", ""));
    assert_eq!(ranges(&index), [(8080, 8080)]);
    assert!(index.take_findings()[0].problems.is_empty());
    // The same name for another protocol is another port.
    let mut both = pod("c", "app: web");
    let containers = &mut both.spec.as_mut().unwrap().containers;
    let mut datagrams = containers[0].clone();
    let port = &mut datagrams.ports.as_mut().unwrap()[0];
    port.protocol = Some("UDP".to_owned());
    port.container_port = 53;
    containers.insert(0, datagrams);
    index.apply(both);
    assert_eq!(ranges(&index), [(8080, 8080)]);
}

#[test]
fn selecting_by_a_churning_label_takes_it_into_identities() {
    let mut index = index();
    index.apply(namespace("shop"));
    for name in ["db-0", "db-1"] {
        index.apply(pod(name, &format!("app: db, statefulset.kubernetes.io/pod-name: {name}")));
    }
    make_identities(&mut index);
    let identity = |index: &Index, name| endpoint(index, name).unwrap().identity;
    assert_eq!(identity(&index, "db-0"), identity(&index, "db-1"));
    let policy: NetworkPolicy = yaml(
        "{metadata: {namespace: shop, name: p}, spec: {podSelector: {matchLabels: \
         {statefulset.kubernetes.io/pod-name: db-0}}}}",
    );
    index.apply(policy.clone());
    make_identities(&mut index);
    assert_ne!(identity(&index, "db-0"), identity(&index, "db-1"));
    index.delete(&policy);
    assert_eq!(identity(&index, "db-0"), identity(&index, "db-1"));
}
