//! Services to and from their messages.

use tombolo_model::{Affinity, Backend, BackendState, OnClusterLoss, ServicePort, ServiceRecord};

use super::{
    limits,
    parse::{self, Result},
    proto,
};

pub fn message(r: &ServiceRecord) -> proto::Service {
    let affinity = match r.affinity {
        Affinity::None => proto::Affinity::None,
        Affinity::Local => proto::Affinity::Local,
        Affinity::Remote => proto::Affinity::Remote,
    };
    proto::Service {
        cluster: r.cluster.get().into(),
        namespace: r.namespace.clone(),
        name: r.name.clone(),
        frontends: parse::octets(&r.frontends),
        global: r.global,
        shared: r.shared,
        affinity: affinity.into(),
        keeps_lost: r.on_cluster_loss == OnClusterLoss::Keep,
        ports: r.ports.iter().map(port_message).collect(),
    }
}

pub fn parse(m: proto::Service) -> Result<ServiceRecord> {
    let affinity = match proto::Affinity::try_from(m.affinity) {
        Ok(proto::Affinity::None) => Affinity::None,
        Ok(proto::Affinity::Local) => Affinity::Local,
        Ok(proto::Affinity::Remote) => Affinity::Remote,
        Err(_) => return Err(parse::invalid("service.affinity", &m.affinity)),
    };
    Ok(ServiceRecord {
        cluster: parse::cluster("service.cluster", m.cluster)?,
        namespace: parse::name("service.namespace", m.namespace)?,
        name: parse::name("service.name", m.name)?,
        frontends: parse::addresses("service.frontends", &m.frontends)?,
        global: m.global,
        shared: m.shared,
        affinity,
        on_cluster_loss: if m.keeps_lost { OnClusterLoss::Keep } else { OnClusterLoss::Drain },
        ports: parse::list("service.ports", m.ports, limits::MAX_PORTS, parse_port)?,
    })
}

fn port_message(p: &ServicePort) -> proto::ServicePort {
    proto::ServicePort {
        name: p.name.clone(),
        protocol: p.protocol.number().into(),
        port: p.port.into(),
        backends: p.backends.iter().map(backend_message).collect(),
    }
}

fn parse_port(m: proto::ServicePort) -> Result<ServicePort> {
    Ok(ServicePort {
        name: parse::text("service.ports.name", m.name, limits::MAX_NAME)?,
        protocol: parse::protocol("service.ports.protocol", m.protocol)?,
        port: parse::port("service.ports.port", m.port)?,
        backends: parse::list("service.ports.backends", m.backends, limits::MAX_BACKENDS, parse_backend)?,
    })
}

fn backend_message(b: &Backend) -> proto::Backend {
    let state = match b.state {
        BackendState::Ready => proto::BackendState::Ready,
        BackendState::Terminating => proto::BackendState::Terminating,
        BackendState::NotReady => proto::BackendState::NotReady,
    };
    proto::Backend {
        address: b.address.octets().to_vec(),
        port: b.port.into(),
        cluster: b.cluster.get().into(),
        node: b.node.clone(),
        zone: b.zone.clone(),
        state: state.into(),
    }
}

fn parse_backend(m: proto::Backend) -> Result<Backend> {
    let state = match proto::BackendState::try_from(m.state) {
        Ok(proto::BackendState::Ready) => BackendState::Ready,
        Ok(proto::BackendState::Terminating) => BackendState::Terminating,
        Ok(proto::BackendState::NotReady) => BackendState::NotReady,
        Err(_) => return Err(parse::invalid("backend.state", &m.state)),
    };
    Ok(Backend {
        address: parse::address("backend.address", &m.address)?,
        port: parse::port("backend.port", m.port)?,
        cluster: parse::cluster("backend.cluster", m.cluster)?,
        node: parse::text("backend.node", m.node, limits::MAX_NAME)?,
        zone: parse::text("backend.zone", m.zone, limits::MAX_NAME)?,
        state,
    })
}
