//! Masquerading: connections of pods to the outside carry the node's address and a port of their own for each peer
//! outside (RFC 4787, RFC 5382).

use tombolo_abi::{
    Address, Config, DropReason, FlowFlags, FlowKey, Metric, NatTimeouts, Scope, SnatValue, forward_key,
    protocol, reverse_key,
};

use crate::{
    Headers, Packet, Tables, Transport, Tuple,
    flow::is_another,
    rewrite::{End, set_end},
    tables::same,
};

/// Ports tried for one that nobody has. With nine of ten in use, one connection in 160 has to go on to the next search.
const TRIES: u32 = 48;
/// Ports tried then for one whose connection is over: usually user space has removed those before.
const TRIES_AMONG_USED: u32 = 16;

const FIN: u8 = 0x01;
const RST: u8 = 0x04;

/// Gives a packet of the endpoint with the number `pod` to the outside the node's address.
///
/// # Errors
/// No free port, or an ICMP error about a connection that is not known.
#[inline(never)]
pub fn masquerade<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    headers: &mut Headers,
    pod: u32,
) -> Result<(), DropReason> {
    let port = match known_port(tables, config, headers, pod) {
        0 if headers.is_error() => return Err(DropReason::NoRoute),
        0 => allocate(packet, tables, config, headers, pod)?,
        port => port,
    };
    set_end(packet, headers, End::Source, config.node(headers.is_v6()), port)?;
    tables.count(Metric::Masqueraded, packet.len());
    Ok(())
}

/// Who is behind a port of the node.
#[derive(Clone, Copy, Default)]
pub struct Behind {
    /// The pod's address.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// Its number, 0 when that is not known.
    pub endpoint: u32,
}

/// Finds out whom a packet to the node answers; false for one that answers no masqueraded connection, or comes after the
/// port was given up, whether or not user space has removed its entry yet.
#[inline(never)]
pub fn find_behind<T: Tables>(tables: &T, config: &Config, headers: &Headers, behind: &mut Behind) -> bool {
    let t = &headers.tuple;
    let without_port = t.destination_port == 0 && headers.transport == Transport::Other;
    if !config.nat_ports().contains(t.destination_port) && !without_port {
        return false;
    }
    let now = tables.now();
    let answer =
        FlowKey::new(Scope::Reverse, t.source, t.source_port, t.destination, t.destination_port, t.protocol);
    let alive = tables.snat(&answer, |entry| {
        let kept = config.nat_timeouts().lifetime(entry.flags(), t.protocol, t.source_port);
        if now.saturating_sub(entry.last_seen()) > kept {
            return false;
        }
        if !headers.is_error() {
            entry.touch(now, answered(entry.flags(), headers));
        }
        *behind = Behind { address: entry.address(), port: entry.port(), endpoint: entry.endpoint() };
        true
    });
    alive == Some(true)
}

/// Gives a reply to a masqueraded connection the pod's address back.
///
/// # Errors
/// The packet cannot be changed.
#[inline(never)]
pub fn unmasquerade<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    behind: &Behind,
) -> Result<(), DropReason> {
    set_end(packet, headers, End::Destination, &behind.address, behind.port)?;
    tables.count(Metric::Unmasqueraded, packet.len());
    Ok(())
}

/// The port that the connection has already, 0 for none.
#[inline(never)]
fn known_port<T: Tables>(tables: &T, config: &Config, headers: &Headers, pod: u32) -> u16 {
    let node = config.node(headers.is_v6());
    let now = tables.now();
    let known = tables.snat(&forward(&headers.tuple), |entry| {
        if is_another(entry.endpoint(), pod) {
            return 0;
        }
        entry.adopt(pod);
        entry.touch(now, entry.flags());
        // Answers to a port that `natPorts` does not have any more are not looked up.
        let without_port = headers.transport == Transport::Other;
        // An echo with identifier 0 and other ICMP have one entry, and only the echo has a port.
        let usable = if without_port { entry.port() == 0 } else { config.nat_ports().contains(entry.port()) };
        if usable && same(&entry.address(), node) { entry.port() } else { 0 }
    });
    let Some(port) = known else { return 0 };
    let mine = port != 0
        && match holder(tables, config, headers, &Wanted { port, pod, early_if_closed: false }) {
            Held::Mine => true,
            // The kernel has evicted the entry for replies.
            held @ (Held::Free | Held::Unused) => {
                take(tables, config, headers, Candidate::new(port, held), pod)
            }
            Held::Taken => false,
        };
    if mine { port } else { 0 }
}

/// The key of a pod's packets.
#[inline(always)]
pub fn forward(t: &Tuple) -> FlowKey {
    forward_key((t.source, t.source_port), (t.destination, t.destination_port), t.protocol)
}

/// A port under which the replies find back: its own if that is in the ranges, else a random one.
#[inline(always)]
fn allocate<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    headers: &Headers,
    pod: u32,
) -> Result<u16, DropReason> {
    let own = headers.tuple.source_port;
    let without_port = headers.transport == Transport::Other;
    if without_port || config.nat_ports().contains(own) {
        let held = holder(tables, config, headers, &Wanted { port: own, pod, early_if_closed: false });
        let candidate = Candidate::new(own, held);
        if held != Held::Taken && settle(packet, tables, config, headers, &Settled { candidate, pod }) {
            return Ok(own);
        }
        if without_port {
            return Err(DropReason::SnatExhausted);
        }
    }
    let mut found = find_free(tables, config, headers);
    if found == Candidate::NONE
        || !settle(packet, tables, config, headers, &Settled { candidate: found, pod })
    {
        found = find_unused(tables, config, headers, pod);
        if found == Candidate::NONE
            || !settle(packet, tables, config, headers, &Settled { candidate: found, pod })
        {
            return Err(DropReason::SnatExhausted);
        }
    }
    Ok(found.port())
}

/// A port and who has it, in one number: what a BPF function can return.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Candidate(u32);

impl Candidate {
    /// No port.
    const NONE: Self = Self(0);

    #[inline(always)]
    const fn new(port: u16, held: Held) -> Self {
        Self(1 << 31 | (held as u32) << 16 | port as u32)
    }

    #[inline(always)]
    const fn port(self) -> u16 {
        self.0 as u16
    }

    /// Whether there is an entry of another connection to be replaced.
    #[inline(always)]
    const fn replaces(self) -> bool {
        self.0 >> 16 & 0xff == Held::Unused as u32
    }

    /// Whether the connection has the port already, and lacks only the entry for its own packets.
    #[inline(always)]
    const fn is_mine(self) -> bool {
        self.0 >> 16 & 0xff == Held::Mine as u32
    }
}

/// A random port that nobody has.
#[inline(never)]
fn find_free<T: Tables>(tables: &T, config: &Config, headers: &Headers) -> Candidate {
    let mut attempt = 0;
    while attempt < TRIES {
        let Some(port) = random_port(tables, config) else { return Candidate::NONE };
        if tables.snat(&reverse(config, headers, port), |_| ()).is_none() {
            return Candidate::new(port, Held::Free);
        }
        attempt += 1;
    }
    Candidate::NONE
}

/// A random port whose connection is over, or has just been closed.
#[inline(never)]
fn find_unused<T: Tables>(tables: &T, config: &Config, headers: &Headers, pod: u32) -> Candidate {
    let mut attempt = 0;
    while attempt < TRIES_AMONG_USED {
        let Some(port) = random_port(tables, config) else { return Candidate::NONE };
        let held = holder(tables, config, headers, &Wanted { port, pod, early_if_closed: true });
        if held != Held::Taken {
            return Candidate::new(port, held);
        }
        attempt += 1;
    }
    Candidate::NONE
}

#[inline(always)]
fn random_port<T: Tables>(tables: &T, config: &Config) -> Option<u16> {
    let ports = config.nat_ports();
    Some(ports.nth(tables.random().checked_rem(ports.count())?))
}

/// A port that was found for an endpoint.
struct Settled {
    candidate: Candidate,
    /// The endpoint's number.
    pod: u32,
}

/// Takes the port for both directions, unless it is the host's or another connection was faster.
#[inline(never)]
fn settle<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    config: &Config,
    headers: &Headers,
    settled: &Settled,
) -> bool {
    let Settled { candidate, pod } = *settled;
    let port = candidate.port();
    let taken = candidate.is_mine()
        || (!is_hosts(packet, config, headers, port) && take(tables, config, headers, candidate, pod));
    if !taken {
        return false;
    }
    let node = *config.node(headers.is_v6());
    let value = SnatValue::new(tables.now(), node, port, FlowFlags::FROM_SOURCE, pod);
    tables.set_snat(&forward(&headers.tuple), &value, true)
}

/// Whether a socket of the node waits for what would come to the port.
#[inline(always)]
fn is_hosts<P: Packet>(packet: &mut P, config: &Config, headers: &Headers, port: u16) -> bool {
    let t = &headers.tuple;
    let to_node = Tuple {
        source: t.destination,
        source_port: t.destination_port,
        destination: *config.node(headers.is_v6()),
        destination_port: port,
        protocol: t.protocol,
    };
    packet.has_socket(&to_node, headers.is_v6())
}

/// Who has a port towards a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Held {
    /// Nobody.
    Free,
    /// A connection that was silent for so long that it may lose it.
    Unused,
    /// The connection of the packet.
    Mine,
    /// Another one.
    Taken,
}

/// A port that an endpoint wants.
struct Wanted {
    port: u16,
    /// The endpoint's number.
    pod: u32,
    /// Whether a connection that both sides have finished loses its port after [`NatTimeouts::CLOSED`].
    early_if_closed: bool,
}

/// Who has the port, and notes the packet when that is its own connection.
#[inline(never)]
fn holder<T: Tables>(tables: &T, config: &Config, headers: &Headers, wanted: &Wanted) -> Held {
    let t = &headers.tuple;
    let now = tables.now();
    let held = tables.snat(&reverse(config, headers, wanted.port), |entry| {
        if same(&entry.address(), &t.source) && entry.port() == t.source_port {
            if is_another(entry.endpoint(), wanted.pod) {
                // The pod that had the address before is gone.
                return Held::Unused;
            }
            entry.adopt(wanted.pod);
            if !headers.is_error() {
                entry.touch(now, sent(entry.flags(), headers));
            }
            return Held::Mine;
        }
        let kept = config.nat_timeouts().lifetime(entry.flags(), t.protocol, t.destination_port);
        let finished = entry.flags().contains(FlowFlags::FINISHED);
        let early = wanted.early_if_closed && finished && kept > NatTimeouts::CLOSED;
        let kept = if early { NatTimeouts::CLOSED } else { kept };
        if now.saturating_sub(entry.last_seen()) > kept { Held::Unused } else { Held::Taken }
    });
    held.unwrap_or(Held::Free)
}

/// Makes replies come to this connection; false when another one took a free port first. Of two that replace the same
/// entry the later one has it, and the other finds a new port at its next packet.
#[inline(never)]
fn take<T: Tables>(tables: &T, config: &Config, headers: &Headers, candidate: Candidate, pod: u32) -> bool {
    let t = &headers.tuple;
    let flags = sent(FlowFlags::NONE, headers);
    let value = SnatValue::new(tables.now(), t.source, t.source_port, flags, pod);
    tables.set_snat(&reverse(config, headers, candidate.port()), &value, candidate.replaces())
}

#[inline(always)]
fn reverse(config: &Config, headers: &Headers, port: u16) -> FlowKey {
    let t = &headers.tuple;
    let echo = headers.transport == Transport::Echo || headers.inner_transport == Transport::Echo;
    let node = config.node(headers.is_v6());
    reverse_key((t.destination, t.destination_port), *node, port, echo, t.protocol)
}

/// The state after a packet of the pod. Who opens a connection begins anew, whose own reset ends it, and who goes on after
/// one of the other side did not believe it: anybody can send those. What is met in its midst has been established by
/// packets that were not seen.
#[inline(always)]
fn sent(before: FlowFlags, headers: &Headers) -> FlowFlags {
    let open = FlowFlags::FROM_SOURCE;
    if headers.tuple.protocol != protocol::TCP {
        return before.with(open);
    }
    if headers.opens() {
        return open;
    }
    if headers.tcp_flags & RST != 0 {
        return before.with(open).with(FlowFlags::RESET).with(FlowFlags::FINISHED);
    }
    let met = before.bits() == 0 || before.contains(FlowFlags::REPLIED);
    let established = if met { FlowFlags::ESTABLISHED.with(FlowFlags::REPLIED) } else { FlowFlags::NONE };
    let closes = if headers.tcp_flags & FIN != 0 { FlowFlags::FIN_ORIGINAL } else { FlowFlags::NONE };
    before.without(FlowFlags::RESET).with(open).with(established).with(closes)
}

/// The state after a packet to the pod.
#[inline(always)]
fn answered(before: FlowFlags, headers: &Headers) -> FlowFlags {
    let progress = if headers.tcp_flags & RST != 0 {
        FlowFlags::RESET
    } else if headers.tcp_flags & FIN != 0 {
        FlowFlags::FIN_REPLY
    } else {
        FlowFlags::NONE
    };
    // Without a state it was opened before there was one.
    let opened = if before.bits() == 0 && headers.tuple.protocol == protocol::TCP {
        FlowFlags::FROM_SOURCE.with(FlowFlags::ESTABLISHED)
    } else {
        FlowFlags::FROM_SOURCE
    };
    before.with(opened).with(FlowFlags::REPLIED).with(progress)
}
