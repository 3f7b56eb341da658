//! Services and the endpoint slices that name their backends.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::Service,
        discovery::v1::{Endpoint, EndpointConditions, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tombolo_api::annotation::{AnnotationProblem, ServiceAnnotations};
use tombolo_model::{
    Address, Backend, BackendState, ClusterId, Protocol, Record, RecordKey, ServicePort, ServiceRecord,
};

use super::{Index, Indexed, ObjectName, object_name};

/// The label that ties an EndpointSlice to its Service (KEP-752).
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the index keeps of a service.
#[derive(Debug)]
pub(super) struct Entry {
    frontends: Vec<Address>,
    ports: Vec<(String, Protocol, u16)>,
    annotations: ServiceAnnotations,
    pub(super) problems: Vec<AnnotationProblem>,
}

/// What the index keeps of an endpoint slice.
#[derive(Debug)]
pub(super) struct Slice {
    service: ObjectName,
    ports: Vec<(String, Protocol, u16)>,
    endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug)]
struct SliceEndpoint {
    address: Address,
    node: String,
    zone: String,
    state: BackendState,
}

impl Indexed for Service {
    fn apply(self, index: &mut Index) {
        let name = object_name(&self.metadata);
        match Entry::read(self) {
            Some(entry) => index.services.insert(name.clone(), entry),
            None => index.services.remove(&name),
        };
        index.publish_service(&name);
    }

    fn delete(name: &ObjectName, index: &mut Index) {
        index.services.remove(name);
        index.publish_service(name);
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        index.services.keys().cloned().collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Indexed for EndpointSlice {
    fn apply(self, index: &mut Index) {
        let name = object_name(&self.metadata);
        EndpointSlice::delete(&name, index);
        if let Some(slice) = Slice::read(self) {
            let service = slice.service.clone();
            index.slices.insert(name, slice);
            index.publish_service(&service);
        }
    }

    fn delete(name: &ObjectName, index: &mut Index) {
        if let Some(slice) = index.slices.remove(name) {
            index.publish_service(&slice.service);
        }
    }

    fn names(index: &Index) -> Vec<ObjectName> {
        index.slices.keys().cloned().collect()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
}

impl Entry {
    /// None for a service that has no backends of its own (ExternalName).
    fn read(service: Service) -> Option<Self> {
        let spec = service.spec.unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return None;
        }
        let addresses = spec.cluster_ips.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        let ports = spec.ports.into_iter().flatten().filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
            Some((port.name.unwrap_or_default(), protocol, u16::try_from(port.port).ok()?))
        });
        let (annotations, problems) =
            ServiceAnnotations::parse(&service.metadata.annotations.unwrap_or_default());
        Some(Self {
            // The address of a headless service is the text "None".
            frontends: addresses.iter().filter_map(|address| address.parse().ok()).collect(),
            ports: ports.collect(),
            annotations,
            problems,
        })
    }
}

impl Slice {
    /// None for a slice that belongs to no service.
    fn read(slice: EndpointSlice) -> Option<Self> {
        let namespace = slice.metadata.namespace.unwrap_or_default();
        let service = slice.metadata.labels.and_then(|mut labels| labels.remove(SERVICE_NAME))?;
        let ports = slice.ports.into_iter().flatten().filter_map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
            Some((port.name.unwrap_or_default(), protocol, u16::try_from(port.port?).ok()?))
        });
        Some(Self {
            service: (namespace, service),
            ports: ports.collect(),
            endpoints: slice.endpoints.into_iter().flatten().filter_map(SliceEndpoint::read).collect(),
        })
    }
}

impl SliceEndpoint {
    /// None for a host name instead of an address (address type FQDN).
    fn read(endpoint: Endpoint) -> Option<Self> {
        // The addresses of one endpoint are interchangeable; consumers take the first (EndpointSlice API).
        let address = endpoint.addresses.first()?.parse().ok()?;
        Some(Self {
            address,
            node: endpoint.node_name.unwrap_or_default(),
            zone: endpoint.zone.unwrap_or_default(),
            state: state(&endpoint.conditions.unwrap_or_default()),
        })
    }
}

/// KEP-1672: a missing `ready` means ready, a missing `serving` means the same as `ready`.
fn state(conditions: &EndpointConditions) -> BackendState {
    let ready = conditions.ready.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    if ready {
        // A service with publishNotReadyAddresses keeps terminating pods ready.
        BackendState::Ready
    } else if terminating && conditions.serving.unwrap_or(ready) {
        BackendState::Terminating
    } else {
        BackendState::NotReady
    }
}

impl Index {
    /// Wrong annotations of each service.
    pub fn service_problems(&self) -> impl Iterator<Item = (&ObjectName, &[AnnotationProblem])> {
        let wrong = self.services.iter().filter(|(_, service)| !service.problems.is_empty());
        wrong.map(|(name, service)| (name, service.problems.as_slice()))
    }

    fn publish_service(&mut self, name: &ObjectName) {
        let record = self.services.get(name).map(|service| {
            let mut ports: Vec<_> = service.ports.iter().map(|port| self.service_port(name, port)).collect();
            ports.sort_by(|a, b| (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port)));
            Record::Service(ServiceRecord {
                cluster: self.id,
                namespace: name.0.clone(),
                name: name.1.clone(),
                frontends: service.frontends.clone(),
                global: service.annotations.global,
                shared: service.annotations.shared,
                affinity: service.annotations.affinity,
                on_cluster_loss: service.annotations.on_cluster_loss,
                ports,
            })
        });
        self.publish(RecordKey::Service(self.id, name.0.clone(), name.1.clone()), record);
    }

    fn service_port(
        &self,
        service: &ObjectName,
        (name, protocol, port): &(String, Protocol, u16),
    ) -> ServicePort {
        // While pods move between slices one of them may be in two; the better state counts.
        let mut backends: BTreeMap<(Address, u16), Backend> = BTreeMap::new();
        for slice in self.slices_of(service) {
            let target = slice.ports.iter().find(|(n, p, _)| (n, p) == (name, protocol));
            let Some(&(_, _, target)) = target else { continue };
            for endpoint in &slice.endpoints {
                let backend = endpoint.backend(self.id, target);
                let entry = backends.entry((backend.address, target)).or_insert_with(|| backend.clone());
                if backend.state < entry.state {
                    *entry = backend;
                }
            }
        }
        ServicePort {
            name: name.clone(),
            protocol: *protocol,
            port: *port,
            backends: backends.into_values().collect(),
        }
    }

    fn slices_of<'a>(&'a self, service: &'a ObjectName) -> impl Iterator<Item = &'a Slice> {
        let first = (service.0.clone(), String::new());
        self.slices
            .range(first..)
            .take_while(|((namespace, _), _)| *namespace == service.0)
            .map(|(_, slice)| slice)
            .filter(|slice| slice.service == *service)
    }
}

impl SliceEndpoint {
    fn backend(&self, cluster: ClusterId, port: u16) -> Backend {
        let (node, zone) = (self.node.clone(), self.zone.clone());
        Backend { address: self.address, port, cluster, node, zone, state: self.state }
    }
}
