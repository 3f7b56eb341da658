//! A client's end of a connection is given another port where a connection with its own is in the way (port-only source
//! NAT). One port of a client may be used with one backend through several frontends, and directly; only what comes later
//! is changed. A direct connection then goes on as if its receiver were a frontend.

use tombolo_abi::{DropReason, FlowFlags};

use crate::{
    Headers, Packet, Tables, Transport,
    flow::{self, Seen},
    rewrite::{End, set_end},
    service,
    tables::same,
    translation::Translation,
};

/// The first port that may be given: the lower ones are for those who may bind them (RFC 6335, section 6).
const FIRST: u16 = 1024;

/// Whether a packet that was seen so may need another port at its client's end. When the connection that is in the way is
/// forgotten, those that made way for it still go on; new ones of TCP have nothing to go on with.
#[inline(always)]
pub fn may_be_needed(headers: &Headers, translation: &Translation, seen: Seen) -> bool {
    seen == Seen::Conflict || (seen == Seen::New && !translation.exists && !headers.opens())
}

/// Gives the client's end of the packet another port where it needs one: the one that the connection was given before, or a
/// new one if the packet was seen as a conflict; `translation` says so then. `pod` is the number of the endpoint that sends
/// it. The packet is to be looked up once more.
///
/// # Errors
/// The packet cannot be changed.
#[inline(never)]
pub fn make_way<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    translation: &mut Translation,
    pod: u32,
    seen: Seen,
) -> Result<(), DropReason> {
    let mut port = if translation.exists { 0 } else { known(tables, headers, pod) };
    if port == 0 && seen == Seen::Conflict {
        port = find(tables, headers, translation);
        translation.is_new = port != 0;
    }
    if port == 0 {
        return Ok(());
    }
    become_translated(headers, translation);
    set(packet, headers, translation, port)
}

/// Gives the client's end of the packet another port.
#[inline(always)]
pub fn set<P: Packet>(
    packet: &mut P,
    headers: &mut Headers,
    translation: &mut Translation,
    port: u16,
) -> Result<(), DropReason> {
    translation.client_port = own_port(headers, translation);
    let address = headers.tuple.source;
    set_end(packet, headers, End::Source, &address, port)
}

/// Gives a reply the port that its receiver has for itself.
#[inline(always)]
pub fn restore<P: Packet>(
    packet: &mut P,
    headers: &mut Headers,
    translation: &Translation,
) -> Result<(), DropReason> {
    if translation.client_port == 0 {
        return Ok(());
    }
    let (address, port) = (headers.tuple.destination, translation.client_port);
    set_end(packet, headers, End::Destination, &address, port)
}

/// The port that the client has for itself.
#[inline(always)]
pub const fn own_port(headers: &Headers, translation: &Translation) -> u16 {
    if translation.client_port == 0 { headers.tuple.source_port } else { translation.client_port }
}

/// The port that a direct connection was given, 0 for none or for one that somebody else has by now.
#[inline(never)]
fn known<T: Tables>(tables: &T, headers: &Headers, pod: u32) -> u16 {
    if !has_ports(headers) {
        return 0;
    }
    let t = &headers.tuple;
    let now = tables.now();
    let given = tables.flow(&service::sticky_key(t), |sticky| {
        if flow::is_another(sticky.opener(), pod) || !flow::is_alive(sticky, t.protocol, now) {
            return 0;
        }
        sticky.touch(now, FlowFlags::CHOSEN);
        sticky.client_port()
    });
    let port = given.unwrap_or(0);
    if port == 0 {
        return 0;
    }
    let (key, _) = flow::key_between(&t.source, port, &t.destination, t.destination_port, t.protocol);
    let others = tables.flow(&key, |other| {
        let own = other.client_port() == t.source_port && other.port() == t.destination_port;
        flow::is_alive(other, t.protocol, now) && !(own && same(&other.address(), &t.destination))
    });
    if others == Some(true) { 0 } else { port }
}

/// A random port, or 0 if a connection to the receiver has it: one is tried, since the verifier follows each further one through
/// all that comes after. A client that has a hundredth of all ports towards one backend asks once more once in a hundred
/// times. Nobody can give port 0 back, and an error about an unknown packet is about nothing.
#[inline(never)]
fn find<T: Tables>(tables: &T, headers: &Headers, translation: &Translation) -> u16 {
    if !has_ports(headers) || headers.is_error() || own_port(headers, translation) == 0 {
        return 0;
    }
    let mut tuple = headers.tuple;
    tuple.source_port = FIRST + (tables.random() % (u16::MAX - FIRST + 1) as u32) as u16;
    if flow::is_known(tables, &tuple) { 0 } else { tuple.source_port }
}

/// The receiver of a direct connection is the frontend from now on.
#[inline(always)]
const fn become_translated(headers: &Headers, translation: &mut Translation) {
    if !translation.exists {
        translation.begin(&headers.tuple.destination, headers.tuple.destination_port);
    }
}

#[inline(always)]
fn has_ports(headers: &Headers) -> bool {
    headers.transport == Transport::Ports || headers.inner_transport == Transport::Ports
}
