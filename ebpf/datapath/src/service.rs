//! Services: from a frontend to one of its backends, the same one for all packets of a connection.

use tombolo_abi::{
    Address, BackendKey, BackendValue, DropReason, FlowFlags, FlowKey, FlowValue, Metric, Scope, ServiceKey,
    ServiceValue, SlotKey, protocol,
};

use crate::{
    Headers, Packet, Tables, Transport, Tuple, flow,
    rewrite::{End, set_end},
    tables::same,
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
    let Some(service) = find(tables, &headers.tuple) else { return Ok(()) };
    headers.frontend = headers.tuple.destination;
    headers.frontend_port = headers.tuple.destination_port;
    headers.translated = true;
    let mut to = ([0; 16], 0);
    if !remembered(tables, headers, &mut to) {
        if headers.is_error() {
            return Ok(());
        }
        choose(tables, headers, service.id(), service.count(), &mut to)?;
        remember(tables, headers, &to)?;
    }
    set_end(packet, headers, End::Destination, &to.0, to.1)?;
    tables.count(Metric::ServiceTranslated, packet.len());
    Ok(())
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

/// The backend that the connection got before, unless it is gone and the connection can do with another.
#[inline(never)]
fn remembered<T: Tables>(tables: &T, headers: &mut Headers, to: &mut (Address, u16)) -> bool {
    let now = tables.now();
    let found = tables.flow(&sticky_key(&headers.tuple), |sticky| {
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
fn remember<T: Tables>(tables: &T, headers: &Headers, to: &(Address, u16)) -> Result<(), DropReason> {
    let sticky = FlowValue::new(tables.now(), FlowFlags::NONE).translated(headers.backend, to.0, to.1);
    flow::store(tables, &sticky_key(&headers.tuple), &sticky)
}

#[inline(always)]
fn choose<T: Tables>(
    tables: &T,
    headers: &mut Headers,
    service: u32,
    count: u32,
    to: &mut (Address, u16),
) -> Result<(), DropReason> {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        match propose(tables, headers, service, count, to) {
            Proposal::Free => return Ok(()),
            Proposal::Taken => attempt += 1,
            Proposal::Nobody => return Err(DropReason::NoBackend),
        }
    }
    Err(DropReason::TranslationConflict)
}

/// What became of a random choice.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Proposal {
    Free,
    Taken,
    Nobody,
}

#[inline(never)]
fn propose<T: Tables>(
    tables: &T,
    headers: &mut Headers,
    service: u32,
    count: u32,
    to: &mut (Address, u16),
) -> Proposal {
    let Some((id, backend)) = pick(tables, service, count) else { return Proposal::Nobody };
    headers.backend = id;
    *to = (backend.address(), backend.port());
    if is_free(tables, headers, to) { Proposal::Free } else { Proposal::Taken }
}

/// Whether no other connection of the client to the backend has the same ports.
#[inline(never)]
fn is_free<T: Tables>(tables: &T, headers: &Headers, to: &(Address, u16)) -> bool {
    let t = &headers.tuple;
    let client = match tables.config() {
        // A pod that reaches itself is seen as the gateway.
        Some(config) if same(&to.0, &t.source) => config.gateway(headers.is_v6()),
        _ => &t.source,
    };
    let (key, _) = flow::key_between(client, t.source_port, &to.0, to.1, t.protocol);
    let now = tables.now();
    let taken = tables.flow(&key, |other| {
        let same = other.flags().contains(FlowFlags::TRANSLATED)
            && other.address() == headers.frontend
            && other.port() == headers.frontend_port;
        !same && flow::is_alive(other, t.protocol, now)
    });
    taken != Some(true)
}
