//! Masquerading: connections of pods to the outside carry the node's address and a port of their own.

use tombolo_abi::{Address, Config, DropReason, FlowKey, Metric, Scope, SnatValue};

use crate::{
    Headers, Packet, Tables, Transport, Tuple,
    rewrite::{End, set_end},
    tables::same,
};

/// Ports tried before a connection is refused.
const ATTEMPTS: u32 = 16;
/// A translation not used for this long may be taken by another connection; nanoseconds. Not shorter than the
/// 2 h 4 min of RFC 5382 (REQ-5).
const IDLE: u64 = 8 * 3600 * 1_000_000_000;

/// Gives a packet to the outside the node's address.
///
/// # Errors
/// No free port, or an ICMP error about a connection that is not known.
#[inline(never)]
pub fn masquerade<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    let node = config.node(headers.is_v6());
    let port = match known_port(tables, headers, node) {
        0 if headers.is_error() => return Err(DropReason::NoRoute),
        0 => allocate(tables, config, headers, node)?,
        port => port,
    };
    set_end(packet, headers, End::Source, node, port)?;
    tables.count(Metric::Masqueraded, packet.len());
    Ok(())
}

/// The port that the connection has already, 0 for none.
#[inline(never)]
fn known_port<T: Tables>(tables: &T, headers: &Headers, node: &Address) -> u16 {
    let now = tables.now();
    let known = tables.snat(&key(Scope::Forward, &headers.tuple), |entry| {
        entry.touch(now);
        if same(&entry.address(), node) { entry.port() } else { 0 }
    });
    match known {
        Some(port) if port != 0 && claim(tables, headers, node, port) => port,
        _ => 0,
    }
}

#[inline(always)]
fn key(scope: Scope, t: &Tuple) -> FlowKey {
    FlowKey::new(scope, t.source, t.source_port, t.destination, t.destination_port, t.protocol)
}

#[inline(never)]
fn remember<T: Tables>(tables: &T, headers: &Headers, node: &Address, port: u16) -> Result<(), DropReason> {
    let value = SnatValue::new(tables.now(), *node, port);
    let added = tables.set_snat(&key(Scope::Forward, &headers.tuple), &value, true);
    if added { Ok(()) } else { Err(DropReason::SnatExhausted) }
}

/// Gives a reply to a masqueraded connection the pod's address back; other packets stay as they are.
///
/// # Errors
/// The packet cannot be changed.
#[inline(never)]
pub fn unmasquerade<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    let t = &headers.tuple;
    let (first, last) = config.snat_ports();
    let in_range = t.destination_port >= first && t.destination_port <= last;
    let without_port = t.destination_port == 0 && headers.transport == Transport::Other;
    if !in_range && !without_port {
        return Ok(());
    }
    let now = tables.now();
    let mut to = ([0; 16], 0);
    let found = tables.snat(&key(Scope::Reverse, t), |entry| {
        entry.touch(now);
        to = (entry.address(), entry.port());
    });
    if found.is_none() {
        return Ok(());
    }
    set_end(packet, headers, End::Destination, &to.0, to.1)?;
    tables.count(Metric::Unmasqueraded, packet.len());
    Ok(())
}

/// A port under which the replies find back: its own if that is in the range, else a random one.
#[inline(always)]
fn allocate<T: Tables>(
    tables: &T,
    config: &Config,
    headers: &Headers,
    node: &Address,
) -> Result<u16, DropReason> {
    let (first, last) = config.snat_ports();
    let own = headers.tuple.source_port;
    if headers.transport == Transport::Other || (own >= first && own <= last) {
        if claim(tables, headers, node, own) {
            return remember(tables, headers, node, own).map(|()| own);
        }
        if headers.transport == Transport::Other {
            return Err(DropReason::SnatExhausted);
        }
    }
    let ports = u32::from(last.wrapping_sub(first)) + 1;
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        let port = first.wrapping_add((tables.random() % ports) as u16);
        if claim(tables, headers, node, port) {
            return remember(tables, headers, node, port).map(|()| port);
        }
        attempt += 1;
    }
    Err(DropReason::SnatExhausted)
}

/// Makes sure that replies to `port` come to this connection; false when they go to another.
#[inline(never)]
fn claim<T: Tables>(tables: &T, headers: &Headers, node: &Address, port: u16) -> bool {
    let t = &headers.tuple;
    let echo = headers.transport == Transport::Echo || headers.inner_transport == Transport::Echo;
    // The reply to an echo carries the changed identifier on both sides.
    let remote_port = if echo { port } else { t.destination_port };
    let key = FlowKey::new(Scope::Reverse, t.destination, remote_port, *node, port, t.protocol);
    let now = tables.now();
    let mine = tables.snat(&key, |entry| {
        let own = same(&entry.address(), &t.source) && entry.port() == t.source_port;
        if own {
            entry.touch(now);
        }
        (own, now.wrapping_sub(entry.last_seen()) > IDLE)
    });
    match mine {
        Some((true, _)) => true,
        Some((false, false)) => false,
        Some((false, true)) | None => {
            tables.set_snat(&key, &SnatValue::new(now, t.source, t.source_port), mine.is_some())
        }
    }
}
