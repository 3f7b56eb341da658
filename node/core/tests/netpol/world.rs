//! Nine pods on one node, their labels, and the verdict of the tables.

use std::collections::BTreeMap;

use serde_json::Value;
use tombolo_abi::{AddressKey, Bitmap, Direction, EndpointFlags, PolicyKey};
use tombolo_model::{
    ClusterId, EndpointRecord, Identity, IdentityRecord, Labels, Policy, Protocol, Record, RecordKey, label,
};
use tombolo_node_core::{
    endpoints::{AttachmentId, Endpoints, PodRef, Wiring},
    policy::SelectorBits,
    problem::Problem,
    state::{Change, OwnNode, State},
};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];

pub(crate) struct World {
    state: State,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pods: BTreeMap<String, BTreeMap<String, String>>,
    identities: BTreeMap<Labels, Identity>,
}

fn cluster() -> ClusterId {
    ClusterId::try_from(1).unwrap()
}

fn labels_of(value: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(value.clone()).unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        let own = OwnNode { cluster: cluster(), name: "n".into(), addresses: vec![] };
        let mut world = Self {
            state: State::new(own, Endpoints::default(), SelectorBits::default()),
            namespaces: NAMESPACES
                .map(|ns| (ns.to_owned(), [("ns".to_owned(), ns.to_owned())].into()))
                .into(),
            pods: BTreeMap::new(),
            identities: BTreeMap::new(),
        };
        for namespace in NAMESPACES {
            for pod in PODS {
                let name = format!("{namespace}/{pod}");
                world.pods.insert(name.clone(), [("pod".to_owned(), pod.to_owned())].into());
                world.state.add_endpoint(wiring(&name)).unwrap();
                world.tell_pod(&name);
            }
        }
        world.state.complete_sync();
        world
    }

    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.state.apply(Change::Upsert(Record::Policy(policy)));
    }

    pub(crate) fn delete_policy(&mut self, key: tombolo_model::PolicyKey) {
        self.state.apply(Change::Delete(RecordKey::Policy(key)));
    }

    pub(crate) fn label_namespace(&mut self, namespace: &str, labels: &Value) {
        self.namespaces.insert(namespace.to_owned(), labels_of(labels));
        PODS.iter().for_each(|pod| self.tell_pod(&format!("{namespace}/{pod}")));
    }

    pub(crate) fn label_pod(&mut self, namespace: &str, pod: &str, labels: &Value) {
        let name = format!("{namespace}/{pod}");
        self.pods.insert(name.clone(), labels_of(labels));
        self.tell_pod(&name);
    }

    pub(crate) fn write_tables(&mut self) {
        self.state.refresh();
        self.state.identity().take_changed();
        self.state.policy().take_changed();
        self.state.settle_policies();
        self.state.refresh();
    }

    pub(crate) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.state.problems()
    }

    /// Whether a packet gets out of its source and into its destination.
    pub(crate) fn passes(&mut self, source: &str, destination: &str, protocol: Protocol, port: u16) -> bool {
        self.admits(source, Direction::Egress, destination, protocol, port)
            && self.admits(destination, Direction::Ingress, source, protocol, port)
    }

    fn admits(&mut self, pod: &str, direction: Direction, peer: &str, protocol: Protocol, port: u16) -> bool {
        let key = |name: &str| AddressKey::new(wiring(name).addresses[0].octets());
        let endpoint = self.state.endpoint().entries()[&key(pod)];
        let enforced = match direction {
            Direction::Ingress => EndpointFlags::INGRESS_ENFORCED,
            Direction::Egress => EndpointFlags::EGRESS_ENFORCED,
        };
        if !endpoint.flags().contains(enforced) {
            return true;
        }
        let identity = self.state.address().entries()[&key(peer)].identity();
        let peer = self.state.identity().entries().get(&identity).copied().unwrap_or(Bitmap::ANY);
        let packet = PolicyKey::port(endpoint.endpoint(), direction, protocol.number(), port);
        let matches = |key: &PolicyKey| {
            let differing = u64::from_be_bytes(packet.data()) ^ u64::from_be_bytes(key.data());
            differing.leading_zeros() >= key.prefix_len()
        };
        let entries = self.state.policy().entries().iter();
        let longest = entries.filter(|(key, _)| matches(key)).max_by_key(|(key, _)| key.prefix_len());
        longest.is_some_and(|(_, value)| value.allows(&peer))
    }

    /// Streams the pod with the identity that its labels have now.
    fn tell_pod(&mut self, name: &str) {
        let (namespace, pod) = name.split_once('/').unwrap();
        let mut labels: BTreeMap<String, String> = BTreeMap::from([
            (label::NAMESPACE.to_owned(), namespace.to_owned()),
            (label::namespace("kubernetes.io/metadata.name"), namespace.to_owned()),
        ]);
        labels.extend(self.namespaces[namespace].iter().map(|(k, v)| (label::namespace(k), v.clone())));
        labels.extend(self.pods[name].iter().map(|(k, v)| (label::pod(k), v.clone())));
        let labels = Labels(labels);
        let next = Identity::new(cluster(), 256 + u32::try_from(self.identities.len()).unwrap()).unwrap();
        let identity = *self.identities.entry(labels.clone()).or_insert(next);
        self.state.apply(Change::Upsert(Record::Identity(IdentityRecord { id: identity, labels })));
        self.state.apply(Change::Upsert(Record::Endpoint(EndpointRecord {
            cluster: cluster(),
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            uid: name.to_owned(),
            node: "n".into(),
            addresses: wiring(name).addresses,
            identity,
        })));
    }
}

fn wiring(name: &str) -> Wiring {
    let (namespace, pod) = name.split_once('/').unwrap();
    let number = |list: [&str; 3], item| list.iter().position(|n| *n == item).unwrap();
    let address = format!("10.1.{}.{}", number(NAMESPACES, namespace), 2 + number(PODS, pod));
    Wiring {
        attachment: AttachmentId { container: name.to_owned(), interface: "eth0".to_owned() },
        pod: PodRef { namespace: namespace.to_owned(), name: pod.to_owned(), uid: name.to_owned() },
        netns: String::new(),
        host_interface: String::new(),
        ifindex: 1,
        host_mac: [2, 0, 0, 0, 0, 1],
        pod_mac: [2, 0, 0, 0, 0, 2],
        addresses: vec![address.parse().unwrap()],
        identity: Identity::INIT,
    }
}
