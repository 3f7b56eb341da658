//! Connection tracking: which packets are replies, and to which frontend they belong.

use tombolo_abi::{Address, DropReason, FlowFlags, FlowKey, FlowValue, Scope, protocol};

use crate::{Headers, Tables, Tuple};

/// What the table says about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Seen {
    /// Nothing yet.
    New,
    /// It goes the way the connection was opened.
    Original,
    /// It goes the other way.
    Reply,
    /// A reply whose sender must become `headers.frontend`.
    TranslatedReply,
    /// A translated reply from a pod to itself.
    HairpinReply,
    /// The table holds another connection with the same addresses and ports.
    Conflict,
}

impl Seen {
    /// Whether it answers an earlier packet.
    pub const fn is_reply(self) -> bool {
        matches!(self, Self::Reply | Self::TranslatedReply | Self::HairpinReply)
    }
}

const SECOND: u64 = 1_000_000_000;
/// A TCP connection that was closed or reset may be reopened after the delayed packets of the old one.
const CLOSED: u64 = 10 * SECOND;
/// Nothing has come back yet.
const UNREPLIED: u64 = 60 * SECOND;
/// A TCP connection; longer than the usual keep-alive interval of 2 h.
const TCP_IDLE: u64 = 8 * 3600 * SECOND;
/// All other protocols.
const IDLE: u64 = 180 * SECOND;

const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const BOTH_FINS: FlowFlags = FlowFlags::FIN_ORIGINAL.with(FlowFlags::FIN_REPLY);

/// Looks up the connection of a packet and notes the packet in it. For a translated reply, `headers.frontend` is
/// set.
#[inline(never)]
pub fn observe<T: Tables>(tables: &T, headers: &mut Headers) -> Seen {
    let (key, from_source) = connection_key(&headers.tuple);
    let now = tables.now();
    tables.flow(&key, |flow| note(flow, headers, from_source, now)).unwrap_or(Seen::New)
}

/// Records a new connection in the direction of the packet.
///
/// # Errors
/// [`DropReason::FlowTableFull`].
#[inline(never)]
pub fn open<T: Tables>(tables: &T, headers: &Headers, hairpin: bool) -> Result<(), DropReason> {
    if headers.is_error() {
        return Ok(());
    }
    let (key, from_source) = connection_key(&headers.tuple);
    let mut flags = if from_source { FlowFlags::FROM_SOURCE } else { FlowFlags::NONE };
    if hairpin {
        flags = flags.with(FlowFlags::HAIRPIN);
    }
    let mut flow = if headers.translated {
        FlowValue::new(tables.now(), flags.with(FlowFlags::TRANSLATED)).translated(
            headers.backend,
            headers.frontend,
            headers.frontend_port,
        )
    } else {
        FlowValue::new(tables.now(), flags)
    };
    if headers.tcp_flags & RST != 0 {
        flow.touch(tables.now(), FlowFlags::RESET);
    }
    if tables.set_flow(&key, &flow) { Ok(()) } else { Err(DropReason::FlowTableFull) }
}

/// Whether an entry still counts.
#[inline(always)]
pub fn is_alive(flow: &FlowValue, number: u8, now: u64) -> bool {
    now.wrapping_sub(flow.last_seen()) < lifetime(flow.flags(), number)
}

#[inline(always)]
const fn lifetime(flags: FlowFlags, number: u8) -> u64 {
    if is_closed(flags) {
        CLOSED
    } else if !flags.contains(FlowFlags::REPLIED) {
        UNREPLIED
    } else if number == protocol::TCP {
        TCP_IDLE
    } else {
        IDLE
    }
}

#[inline(always)]
const fn is_closed(flags: FlowFlags) -> bool {
    flags.contains(FlowFlags::RESET) || flags.contains(BOTH_FINS)
}

/// The key of the connection, and whether the sender stands as source in it.
#[inline(always)]
fn connection_key(t: &Tuple) -> (FlowKey, bool) {
    key_between(&t.source, t.source_port, &t.destination, t.destination_port, t.protocol)
}

/// The key of a connection between two ends, and whether the first stands as source in it.
#[inline(always)]
pub fn key_between(a: &Address, a_port: u16, b: &Address, b_port: u16, number: u8) -> (FlowKey, bool) {
    let a_is_source = is_before(a, a_port, b, b_port);
    let (s, s_port, d, d_port) = if a_is_source { (a, a_port, b, b_port) } else { (b, b_port, a, a_port) };
    (FlowKey::new(Scope::Connection, *s, s_port, *d, d_port, number), a_is_source)
}

/// Any order will do; the last bytes differ most often.
#[inline(always)]
fn is_before(a: &Address, a_port: u16, b: &Address, b_port: u16) -> bool {
    let mut i = a.len();
    while i > 0 {
        i -= 1;
        if a[i] != b[i] {
            return a[i] < b[i];
        }
    }
    a_port <= b_port
}

#[inline(always)]
fn note(flow: &mut FlowValue, headers: &mut Headers, from_source: bool, now: u64) -> Seen {
    let flags = flow.flags();
    if !is_alive(flow, headers.tuple.protocol, now) || (headers.opens() && is_closed(flags)) {
        return Seen::New;
    }
    let translated = flags.contains(FlowFlags::TRANSLATED);
    if flags.contains(FlowFlags::FROM_SOURCE) == from_source {
        let same = translated == headers.translated
            && (!translated || (flow.address() == headers.frontend && flow.port() == headers.frontend_port));
        if !same {
            // A new TCP connection means that the client has given up the old one.
            return if headers.opens() { Seen::New } else { Seen::Conflict };
        }
        if !headers.is_error() {
            flow.touch(now, tcp_progress(headers.tcp_flags, FlowFlags::FIN_ORIGINAL));
        }
        return Seen::Original;
    }
    if !headers.is_error() {
        flow.touch(now, tcp_progress(headers.tcp_flags, FlowFlags::FIN_REPLY).with(FlowFlags::REPLIED));
    }
    if !translated {
        return Seen::Reply;
    }
    headers.frontend = flow.address();
    headers.frontend_port = flow.port();
    if flags.contains(FlowFlags::HAIRPIN) { Seen::HairpinReply } else { Seen::TranslatedReply }
}

#[inline(always)]
const fn tcp_progress(tcp_flags: u8, fin: FlowFlags) -> FlowFlags {
    if tcp_flags & RST != 0 {
        FlowFlags::RESET
    } else if tcp_flags & FIN != 0 {
        fin
    } else {
        FlowFlags::NONE
    }
}
