//! Backends going away: what may overtake everything else, because it makes nothing new visible.

use tombolo_model::{Record, ServicePort, ServiceRecord};

/// Whether a service loses a backend, or one of its backends gets a worse state.
pub fn worsens(old: Option<&Record>, new: Option<&Record>) -> bool {
    match (old, new) {
        (Some(Record::Service(_)), None) => true,
        (Some(Record::Service(old)), Some(Record::Service(new))) => restrict(old, new) != *old,
        _ => false,
    }
}

/// `old` without the backends that `newest` no longer has, and with their states where those are worse.
pub fn restrict(old: &ServiceRecord, newest: &ServiceRecord) -> ServiceRecord {
    let ports = old.ports.iter().map(|port| {
        let other = newest.ports.iter().find(|p| p.name == port.name && p.protocol == port.protocol);
        restrict_port(port, other)
    });
    ServiceRecord { ports: ports.collect(), ..old.clone() }
}

fn restrict_port(port: &ServicePort, newest: Option<&ServicePort>) -> ServicePort {
    let states: std::collections::BTreeMap<_, _> =
        newest.into_iter().flat_map(|p| &p.backends).map(|b| ((b.address, b.port), b.state)).collect();
    let backends = port.backends.iter().filter_map(|backend| {
        let state = states.get(&(backend.address, backend.port))?;
        let mut backend = backend.clone();
        backend.state = backend.state.max(*state);
        Some(backend)
    });
    ServicePort {
        name: port.name.clone(),
        protocol: port.protocol,
        port: port.port,
        backends: backends.collect(),
    }
}
