//! Services: from a frontend to one of its backends, the same one for all packets of a connection.

use tombolo_abi::{
    Address, BackendKey, BackendValue, DropReason, FlowFlags, FlowKey, FlowValue, Metric, Scope, ServiceKey,
    SlotKey, protocol,
};

use crate::{
    Headers, Packet, Tables, Transport, Tuple, flow,
    rewrite::{End, set_end},
};

/// Backends tried when connections between the same addresses and ports are in the way.
const ATTEMPTS: u32 = 4;

/// A random backend of a service with `count` of them.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, service: u32, count: u32) -> Option<(u32, &BackendValue)> {
    if count == 0 {
        return None;
    }
    let slot = tables.slot(&SlotKey::new(service, tables.random() % count))?;
    Some((slot.backend(), tables.backend(&BackendKey::new(slot.backend()))?))
}

/// Changes the destination of a packet to a frontend into a backend; other packets stay as they are.
///
/// # Errors
/// No backend, or no way to keep the connection apart from others.
#[inline(never)]
pub fn translate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    if headers.transport != Transport::Ports && headers.inner_transport != Transport::Ports {
        return Ok(());
    }
    let t = &headers.tuple;
    let Some(service) = tables.service(&ServiceKey::new(t.destination, t.destination_port, t.protocol))
    else {
        return Ok(());
    };
    headers.frontend = t.destination;
    headers.frontend_port = t.destination_port;
    headers.translated = true;
    let key =
        FlowKey::new(Scope::Service, t.source, t.source_port, t.destination, t.destination_port, t.protocol);
    let mut to = ([0; 16], 0);
    if !remembered(tables, headers, &key, &mut to) {
        if headers.is_error() {
            return Ok(());
        }
        choose(tables, headers, service.id(), service.count(), &mut to)?;
        let sticky = FlowValue::new(tables.now(), FlowFlags::NONE).translated(headers.backend, to.0, to.1);
        if !tables.set_flow(&key, &sticky) {
            return Err(DropReason::FlowTableFull);
        }
    }
    set_end(packet, headers, End::Destination, &to.0, to.1)?;
    tables.count(Metric::ServiceTranslated, packet.len());
    Ok(())
}

/// The backend that the connection got before, unless it is gone and the connection can do with another.
#[inline(always)]
fn remembered<T: Tables>(tables: &T, headers: &mut Headers, key: &FlowKey, to: &mut (Address, u16)) -> bool {
    let now = tables.now();
    let found = tables.flow(key, |sticky| {
        // A service entry sees one direction only; the connection's own entry knows when it ends.
        sticky.touch(now, FlowFlags::NONE);
        headers.backend = sticky.backend();
        *to = (sticky.address(), sticky.port());
    });
    if found.is_none() {
        return false;
    }
    let can_move = headers.opens() || headers.tuple.protocol == protocol::UDP;
    !can_move
        || tables
            .backend(&BackendKey::new(headers.backend))
            .is_some_and(|backend| backend.address() == to.0 && backend.port() == to.1)
}

#[inline(never)]
fn choose<T: Tables>(
    tables: &T,
    headers: &mut Headers,
    service: u32,
    count: u32,
    to: &mut (Address, u16),
) -> Result<(), DropReason> {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let Some((id, backend)) = pick(tables, service, count) else { return Err(DropReason::NoBackend) };
        headers.backend = id;
        *to = (backend.address(), backend.port());
        if is_free(tables, headers, to) {
            return Ok(());
        }
        attempt += 1;
    }
    Err(DropReason::TranslationConflict)
}

/// Whether no other connection of the client to the backend has the same ports.
#[inline(never)]
fn is_free<T: Tables>(tables: &T, headers: &Headers, to: &(Address, u16)) -> bool {
    let tuple = Tuple { destination: to.0, destination_port: to.1, ..headers.tuple };
    let (key, _) = flow::connection_key(&tuple);
    let now = tables.now();
    let taken = tables.flow(&key, |other| {
        let same = other.flags().contains(FlowFlags::TRANSLATED)
            && other.address() == headers.frontend
            && other.port() == headers.frontend_port;
        !same && flow::is_alive(other, tuple.protocol, now)
    });
    taken != Some(true)
}
