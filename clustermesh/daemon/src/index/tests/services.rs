//! Services and endpoint slices.

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use tombolo_model::{Affinity, OnClusterLoss, ServiceRecord};

use super::*;

const SERVICE: &str = "
metadata:
  namespace: shop
  name: web
  annotations:
    service.cilium.io/global: 'true'
    service.tombolo.io/affinity: local
    service.tombolo.io/on-cluster-loss: keep
spec:
  clusterIP: 10.96.0.5
  clusterIPs: [10.96.0.5, 'fd00:96::5']
  ports:
  - {name: https, port: 443, targetPort: tls}
  - {name: http, port: 80, targetPort: 8080}
";

const SLICE: &str = "
metadata: {namespace: shop, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}, {name: https, port: 8443}]
endpoints:
- {addresses: [10.1.0.9], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.5, 10.1.0.6], nodeName: n1, zone: z1, conditions: {ready: true}}
- {addresses: [10.1.0.7], conditions: {ready: false}}
- {addresses: [10.1.0.8]}
";

fn service(index: &Index) -> Option<ServiceRecord> {
    index.records().find_map(|r| if let Record::Service(s) = r { Some(s.clone()) } else { None })
}

fn backends(index: &Index, port: usize) -> Vec<String> {
    let service = service(index).unwrap();
    let line =
        |b: &tombolo_model::Backend| format!("{}:{} {:?} {}/{}", b.address, b.port, b.state, b.node, b.zone);
    service.ports[port].backends.iter().map(line).collect()
}

#[test]
fn slices_give_the_backends_whatever_comes_first() {
    for service_first in [true, false] {
        let mut index = index();
        if service_first {
            index.apply(yaml::<Service>(SERVICE));
        }
        index.apply(yaml::<EndpointSlice>(SLICE));
        if !service_first {
            index.apply(yaml::<Service>(SERVICE));
        }
        let record = service(&index).unwrap();
        assert_eq!(record.frontends.len(), 2);
        assert_eq!((record.global, record.shared, record.affinity), (true, true, Affinity::Local));
        assert_eq!(record.on_cluster_loss, OnClusterLoss::Keep);
        let ports: Vec<_> = record.ports.iter().map(|p| (p.name.as_str(), p.port)).collect();
        assert_eq!(ports, [("http", 80), ("https", 443)]);
        assert_eq!(
            backends(&index, 0),
            [
                "10.1.0.5:8080 Ready n1/z1",
                "10.1.0.7:8080 NotReady /",
                "10.1.0.8:8080 Ready /",
                "10.1.0.9:8080 Terminating /",
            ]
        );
        assert_eq!(backends(&index, 1)[0], "10.1.0.5:8443 Ready n1/z1");
    }
}

#[test]
fn a_pod_in_two_slices_counts_once_with_its_better_state() {
    let mut index = index();
    index.apply(yaml::<Service>(SERVICE));
    index.apply(yaml::<EndpointSlice>(SLICE));
    let second = SLICE.replace("web-1", "web-2").replace("ready: false}", "ready: true}");
    index.apply(yaml::<EndpointSlice>(&second));
    assert_eq!(backends(&index, 0)[1], "10.1.0.7:8080 Ready /");
    index.delete(&yaml::<EndpointSlice>(&second));
    assert_eq!(backends(&index, 0)[1], "10.1.0.7:8080 NotReady /");
    index.delete(&yaml::<EndpointSlice>(SLICE));
    assert!(backends(&index, 0).is_empty());
}

#[test]
fn headless_has_no_frontend_and_external_name_no_record() {
    let mut index = index();
    index.apply(yaml::<Service>(
        "metadata: {namespace: shop, name: db}\nspec: {clusterIP: None, clusterIPs: [None], ports: [{port: 1}]}",
    ));
    assert!(service(&index).unwrap().frontends.is_empty());
    index.apply(yaml::<Service>("metadata: {namespace: shop, name: db}\nspec: {type: ExternalName}"));
    assert!(service(&index).is_none());
}

#[test]
fn a_slice_that_changes_its_service_leaves_the_old_one() {
    let mut index = index();
    index.apply(yaml::<Service>(SERVICE));
    index.apply(yaml::<EndpointSlice>(SLICE));
    assert_eq!(backends(&index, 0).len(), 4);
    index.apply(yaml::<EndpointSlice>(&SLICE.replace("service-name: web", "service-name: other")));
    assert!(backends(&index, 0).is_empty());
}

#[test]
fn annotations_of_a_service_that_exists_count() {
    let mut index = index();
    index.apply(yaml::<EndpointSlice>(SLICE));
    let plain = SERVICE.replace("cilium.io/global", "cilium.io/other");
    for (text, global) in [(plain.as_str(), false), (SERVICE, true), (plain.as_str(), false)] {
        index.apply(yaml::<Service>(text));
        let record = service(&index).unwrap();
        assert_eq!((record.global, record.shared), (global, global));
        assert_eq!(backends(&index, 0).len(), 4);
    }
}

#[test]
fn wrong_annotations_are_told() {
    let mut index = index();
    index.apply(yaml::<Service>(&SERVICE.replace("affinity: local", "affinity: near")));
    let (name, problems) = index.service_problems().next().unwrap();
    assert_eq!((name.1.as_str(), problems.len()), ("web", 1));
    assert!(problems[0].to_string().starts_with("annotation service.tombolo.io/affinity is \"near\""));
}
