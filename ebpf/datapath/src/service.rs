//! Services: from a frontend to one of its backends, the same one for all packets of a connection.

use tombolo_abi::{
    Address, BackendKey, BackendValue, DropReason, FlowFlags, FlowKey, FlowValue, Metric, Scope, ServiceKey,
    ServiceValue, SlotKey, protocol,
};

use crate::{
    Headers, Packet, Tables, Transport, Tuple, flow,
    rewrite::{End, set_end},
    source_port,
    translation::Translation,
};

/// A random backend of a service with `count` of them.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, service: u32, count: u32) -> Option<(u32, &BackendValue)> {
    if count == 0 {
        return None;
    }
    let slot = tables.slot(&SlotKey::new(service, tables.random() % count))?;
    Some((slot.backend(), tables.backend(&BackendKey::new(slot.backend()))?))
}

/// Changes the destination of a packet of endpoint `pod` to a frontend into a backend, and says so in `translation`; other
/// packets stay as they are. What is new there is to be remembered once the packet is let through.
///
/// # Errors
/// No backend, or no room for the connection.
#[inline(never)]
pub fn translate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    translation: &mut Translation,
    pod: u32,
) -> Result<(), DropReason> {
    if headers.transport != Transport::Ports && headers.inner_transport != Transport::Ports {
        return Ok(());
    }
    let Some(service) = find(tables, &headers.tuple) else { return Ok(()) };
    translation.begin(&headers.tuple.destination, headers.tuple.destination_port);
    let mut to = Backend { pod, ..Backend::default() };
    if !remembered(tables, headers, translation, &mut to) {
        if headers.is_error() {
            return Ok(());
        }
        choose(tables, translation, service, &mut to)?;
        translation.is_new = true;
    }
    set_end(packet, headers, End::Destination, &to.address, to.port)?;
    if to.client_port != 0 {
        source_port::set(packet, headers, translation, to.client_port)?;
    }
    tables.count(Metric::ServiceTranslated, packet.len());
    Ok(())
}

/// What a client's connection to a frontend becomes.
#[derive(Clone, Copy, Default)]
struct Backend {
    /// The backend's address.
    address: Address,
    /// Number of the endpoint that asks.
    pod: u32,
    /// The backend's port.
    port: u16,
    /// The port that the client is given, 0 when it keeps its own.
    client_port: u16,
}

/// The service whose frontend a connection goes to.
#[inline(never)]
pub fn find<'t, T: Tables>(tables: &'t T, tuple: &Tuple) -> Option<&'t ServiceValue> {
    tables.service(&ServiceKey::new(tuple.destination, tuple.destination_port, tuple.protocol))
}

/// The key under which the backend of a client's connection is remembered.
#[inline(always)]
pub fn sticky_key(t: &Tuple) -> FlowKey {
    FlowKey::new(Scope::Service, t.source, t.source_port, t.destination, t.destination_port, t.protocol)
}

/// The backend that the connection got before, unless it is gone and the connection can do with another. What a pod that had
/// the address before has got counts for nothing.
#[inline(never)]
fn remembered<T: Tables>(
    tables: &T,
    headers: &Headers,
    translation: &mut Translation,
    to: &mut Backend,
) -> bool {
    let now = tables.now();
    let found = tables.flow(&sticky_key(&headers.tuple), |sticky| {
        if flow::is_another(sticky.opener(), to.pod) {
            return false;
        }
        // A service entry sees one direction only; the connection's own entry knows when it ends.
        sticky.touch(now, FlowFlags::CHOSEN);
        translation.backend = sticky.backend();
        to.address = sticky.address();
        to.port = sticky.port();
        to.client_port = sticky.client_port();
        true
    });
    if found != Some(true) {
        return false;
    }
    let can_move = headers.opens() || headers.tuple.protocol == protocol::UDP;
    !can_move
        || tables
            .backend(&BackendKey::new(translation.backend))
            .is_some_and(|backend| backend.address() == to.address && backend.port() == to.port)
}

/// Notes what has become of the connection of a packet that `client` has sent, as endpoint `pod`, and that is let through.
///
/// # Errors
/// [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn remember<T: Tables>(
    tables: &T,
    headers: &Headers,
    translation: &Translation,
    client: &Address,
    pod: u32,
) -> Result<(), DropReason> {
    let t = &headers.tuple;
    let own_port = source_port::own_port(headers, translation);
    let (frontend, port) = (translation.frontend, translation.frontend_port);
    let key = FlowKey::new(Scope::Service, *client, own_port, frontend, port, t.protocol);
    let given = if translation.client_port == 0 { 0 } else { t.source_port };
    let sticky = FlowValue::new(tables.now(), FlowFlags::CHOSEN)
        .translated(translation.backend, t.destination, t.destination_port)
        .with_client_port(given)
        .judged(pod, 0, 0);
    flow::store(tables, &key, &sticky)
}

#[inline(never)]
fn choose<T: Tables>(
    tables: &T,
    translation: &mut Translation,
    service: &ServiceValue,
    to: &mut Backend,
) -> Result<(), DropReason> {
    let (id, backend) = pick(tables, service.id(), service.count()).ok_or(DropReason::NoBackend)?;
    translation.backend = id;
    to.address = backend.address();
    to.port = backend.port();
    to.client_port = 0;
    Ok(())
}
