//! Records and their keys to and from their messages.

use std::sync::Arc;

use tombolo_model::{
    EndpointRecord, IdentityRecord, Labels, NodeRecord, PolicyKey, PolicyKind, Record, RecordKey, TunnelKey,
};

use super::{
    Change, limits,
    parse::{self, FieldError, Result},
    policy,
    proto::{self, change, key},
    service,
};

/// The message of a record.
pub fn message(record: &Record) -> change::Body {
    match record {
        Record::Identity(r) => change::Body::Identity(identity_message(r)),
        Record::Node(r) => change::Body::Node(node_message(r)),
        Record::Endpoint(r) => change::Body::Endpoint(endpoint_message(r)),
        Record::Service(r) => change::Body::Service(service::message(r)),
        Record::Policy(r) => change::Body::Policy(policy::message(r)),
    }
}

/// The change of a message; none when it removes a record of an unknown kind.
pub fn parse(body: change::Body) -> Result<Option<Change>> {
    let record = match body {
        change::Body::Identity(m) => Record::Identity(parse_identity(m)?),
        change::Body::Node(m) => Record::Node(parse_node(m)?),
        change::Body::Endpoint(m) => Record::Endpoint(parse_endpoint(m)?),
        change::Body::Service(m) => Record::Service(service::parse(m)?),
        change::Body::Policy(m) => Record::Policy(policy::parse(m)?),
        change::Body::Remove(m) => return Ok(m.body.map(parse_key).transpose()?.map(Change::Remove)),
    };
    Ok(Some(Change::Upsert(Arc::new(record))))
}

pub fn key_message(key: &RecordKey) -> proto::Key {
    let scoped = |cluster: u16, namespace: &str, name: &str| proto::ClusterNamespaceName {
        cluster: cluster.into(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let body = match key {
        RecordKey::Identity(id) => key::Body::Identity(id.get()),
        RecordKey::Node(c, name) => {
            key::Body::Node(proto::ClusterName { cluster: c.get().into(), name: name.clone() })
        }
        RecordKey::Endpoint(c, namespace, name) => key::Body::Endpoint(scoped(c.get(), namespace, name)),
        RecordKey::Service(c, namespace, name) => key::Body::Service(scoped(c.get(), namespace, name)),
        RecordKey::Policy(key) => key::Body::Policy(policy_key_message(key)),
    };
    proto::Key { body: Some(body) }
}

fn parse_key(body: key::Body) -> Result<RecordKey> {
    Ok(match body {
        key::Body::Identity(id) => RecordKey::Identity(parse::identity("key.identity", id)?),
        key::Body::Node(m) => {
            RecordKey::Node(parse::cluster("key.cluster", m.cluster)?, parse::name("key.name", m.name)?)
        }
        key::Body::Endpoint(m) => RecordKey::Endpoint(
            parse::cluster("key.cluster", m.cluster)?,
            parse::name("key.namespace", m.namespace)?,
            parse::name("key.name", m.name)?,
        ),
        key::Body::Service(m) => RecordKey::Service(
            parse::cluster("key.cluster", m.cluster)?,
            parse::name("key.namespace", m.namespace)?,
            parse::name("key.name", m.name)?,
        ),
        key::Body::Policy(m) => RecordKey::Policy(parse_policy_key(m)?),
    })
}

pub fn policy_key_message(key: &PolicyKey) -> proto::PolicyKey {
    let kind = match key.kind {
        PolicyKind::NetworkPolicy => proto::PolicyKind::NetworkPolicy,
        PolicyKind::MeshNetworkPolicy => proto::PolicyKind::MeshNetworkPolicy,
    };
    proto::PolicyKey { kind: kind.into(), namespace: key.namespace.clone(), name: key.name.clone() }
}

pub fn parse_policy_key(m: proto::PolicyKey) -> Result<PolicyKey> {
    let kind = match proto::PolicyKind::try_from(m.kind) {
        Ok(proto::PolicyKind::NetworkPolicy) => PolicyKind::NetworkPolicy,
        Ok(proto::PolicyKind::MeshNetworkPolicy) => PolicyKind::MeshNetworkPolicy,
        Err(_) => return Err(parse::invalid("policy.kind", m.kind)),
    };
    Ok(PolicyKey {
        kind,
        namespace: parse::name("policy.namespace", m.namespace)?,
        name: parse::name("policy.name", m.name)?,
    })
}

fn identity_message(r: &IdentityRecord) -> proto::Identity {
    proto::Identity { id: r.id.get(), labels: r.labels.0.clone() }
}

fn parse_identity(m: proto::Identity) -> Result<IdentityRecord> {
    if m.labels.len() > limits::MAX_LABELS {
        return Err(FieldError::TooMany {
            field: "identity.labels",
            count: m.labels.len(),
            max: limits::MAX_LABELS,
        });
    }
    let labels = m.labels.into_iter().map(|(k, v)| {
        let k = parse::text("identity.labels key", k, limits::MAX_LABEL_KEY)?;
        Ok((k, parse::text("identity.labels value", v, limits::MAX_LABEL_VALUE)?))
    });
    Ok(IdentityRecord {
        id: parse::identity("identity.id", m.id)?,
        labels: labels.collect::<Result<Labels>>()?,
    })
}

pub fn tunnel_message(key: TunnelKey) -> proto::TunnelKey {
    proto::TunnelKey { public_key: key.public_key.to_vec(), port: key.port.into() }
}

pub fn parse_tunnel(m: &proto::TunnelKey) -> Result<TunnelKey> {
    let public_key = m.public_key.as_slice().try_into();
    Ok(TunnelKey {
        public_key: public_key.map_err(|_| {
            parse::invalid("tunnel.public_key", format_args!("of {} bytes", m.public_key.len()))
        })?,
        port: parse::port("tunnel.port", m.port)?,
    })
}

fn node_message(r: &NodeRecord) -> proto::Node {
    proto::Node {
        cluster: r.cluster.get().into(),
        name: r.name.clone(),
        addresses: parse::octets(&r.addresses),
        pod_prefixes: r.pod_prefixes.iter().copied().map(parse::prefix_message).collect(),
        zone: r.zone.clone(),
        tunnel: r.tunnel.map(tunnel_message),
    }
}

fn parse_node(m: proto::Node) -> Result<NodeRecord> {
    Ok(NodeRecord {
        cluster: parse::cluster("node.cluster", m.cluster)?,
        name: parse::name("node.name", m.name)?,
        addresses: parse::addresses("node.addresses", &m.addresses)?,
        pod_prefixes: parse::list("node.pod_prefixes", m.pod_prefixes, limits::MAX_PREFIXES, |p| {
            parse::prefix("node.pod_prefixes", &p)
        })?,
        zone: parse::text("node.zone", m.zone, limits::MAX_NAME)?,
        tunnel: m.tunnel.as_ref().map(parse_tunnel).transpose()?,
    })
}

fn endpoint_message(r: &EndpointRecord) -> proto::Endpoint {
    proto::Endpoint {
        cluster: r.cluster.get().into(),
        namespace: r.namespace.clone(),
        name: r.name.clone(),
        uid: r.uid.clone(),
        node: r.node.clone(),
        addresses: parse::octets(&r.addresses),
        identity: r.identity.get(),
    }
}

fn parse_endpoint(m: proto::Endpoint) -> Result<EndpointRecord> {
    Ok(EndpointRecord {
        cluster: parse::cluster("endpoint.cluster", m.cluster)?,
        namespace: parse::name("endpoint.namespace", m.namespace)?,
        name: parse::name("endpoint.name", m.name)?,
        uid: parse::text("endpoint.uid", m.uid, limits::MAX_UID)?,
        node: parse::text("endpoint.node", m.node, limits::MAX_NAME)?,
        addresses: parse::addresses("endpoint.addresses", &m.addresses)?,
        identity: parse::identity("endpoint.identity", m.identity)?,
    })
}
