//! What a pod sends.

use tombolo_abi::{
    Address, AddressFlags, AddressKey, ConfigFlags, Direction, DropReason, EndpointValue, protocol,
};

use super::to_pod;
use crate::{
    Headers, Packet, Report, Tables, Verdict,
    flow::{self, Local, Observed, Seen},
    rewrite::{End, set_end, take_hop},
    service, source_port,
    tables::owner,
    translation::Translation,
};

/// Judges and directs a packet that came out of the host-side veth `ifindex`. `translation` is none yet; the stack has no room
/// for one.
///
/// # Errors
/// Why the packet is dropped.
#[inline(always)]
pub fn pod_egress<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    headers: &mut Headers,
    report: &mut Report,
    translation: &mut Translation,
    ifindex: u32,
) -> Result<Verdict<'t>, DropReason> {
    *report = Report::new(Direction::Egress);
    let epoch = tables.policy_epoch();
    if is_neighbour_discovery(headers) {
        return Ok(Verdict::Pass);
    }
    let pod = match tables.endpoint(AddressKey::of(&headers.sender)) {
        Some(pod) if pod.ifindex() == ifindex && headers.sender == headers.tuple.source => pod,
        _ => return Err(DropReason::SourceSpoofed),
    };
    report.source_identity = pod.identity();
    let config = tables.config().ok_or(DropReason::NotConfigured)?;
    if !config.flags().contains(ConfigFlags::READY) {
        return Err(DropReason::NotConfigured);
    }
    if config.flags().contains(ConfigFlags::SERVICES) {
        service::translate(packet, tables, headers, translation, pod.endpoint())?;
    }
    let own = headers.sender;
    let hairpin = translation.exists && headers.tuple.destination == own;
    if hairpin {
        let port = headers.tuple.source_port;
        set_end(packet, headers, End::Source, config.gateway(headers.is_v6()), port)?;
    }
    let other = tables.endpoint(AddressKey::of(&headers.tuple.destination));
    let receiver = other.map_or(0, EndpointValue::endpoint);
    let local = Local { sender: pod.endpoint(), receiver, epoch, is_from_node: false };
    let mut observed = flow::observe(tables, headers, translation, &local);
    if source_port::may_be_needed(headers, translation, observed.seen()) {
        source_port::make_way(packet, tables, headers, translation, pod.endpoint(), observed.seen())?;
        observed = flow::observe(tables, headers, translation, &local);
    }
    let seen = observed.seen();
    match seen {
        Seen::Conflict => return Err(DropReason::TranslationConflict),
        Seen::HairpinReply => return to_itself(packet, tables, headers, report, translation, pod, &own),
        Seen::New | Seen::Original if hairpin => {
            if seen == Seen::New {
                flow::open(tables, headers, translation, &local, true)?;
            }
            if translation.is_new {
                service::remember(tables, headers, translation, &own, local.sender)?;
            }
            return to_pod::deliver(packet, headers, pod);
        }
        Seen::New | Seen::Original | Seen::Reply | Seen::TranslatedReply => {}
    }
    if let Some(other) = other {
        report.destination_identity = other.identity();
        let way =
            Way { pod, client: &own, receiver: Some(other), peer: other.identity(), observed, local: &local };
        leave(packet, tables, headers, report, translation, &way)?;
        return to_pod::deliver(packet, headers, other);
    }
    let to = owner(tables, &headers.tuple.destination);
    report.destination_identity = to.identity();
    let way = Way { pod, client: &own, receiver: None, peer: to.identity(), observed, local: &local };
    leave(packet, tables, headers, report, translation, &way)?;
    if to.flags().contains(AddressFlags::HOST) {
        return Ok(Verdict::Pass);
    }
    if to.flags().contains(AddressFlags::TUNNEL) {
        return into_tunnel(packet, headers, config.tunnel_ifindex());
    }
    if !packet.route(&headers.tuple, headers.is_v6()) {
        return Ok(Verdict::Pass);
    }
    forward(packet, headers, Verdict::ToUnderlay)
}

/// Between whom a packet goes.
struct Way<'a> {
    /// The pod that sends it.
    pod: &'a EndpointValue,
    /// The address that it sends from.
    client: &'a Address,
    /// The pod here that it goes to, if it is one.
    receiver: Option<&'a EndpointValue>,
    /// The identity of who it goes to.
    peer: u32,
    observed: Observed,
    local: &'a Local,
}

/// Asks the rules of the pod, and those of the receiver if that is a pod here; records what is new.
#[inline(always)]
fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    report: &mut Report,
    translation: &Translation,
    way: &Way<'_>,
) -> Result<(), DropReason> {
    let seen = way.observed.seen();
    if !way.observed.is_judged() {
        judge(tables, headers, report, way)?;
        match seen {
            Seen::New => flow::open(tables, headers, translation, way.local, false)?,
            _ => flow::set_judged(tables, headers, way.local),
        }
    }
    if translation.is_new {
        service::remember(tables, headers, translation, way.client, way.local.sender)?;
    }
    match seen {
        Seen::TranslatedReply => to_pod::restore_frontend(packet, tables, headers, translation),
        _ => Ok(()),
    }
}

#[inline(always)]
fn judge<T: Tables>(
    tables: &T,
    headers: &Headers,
    report: &mut Report,
    way: &Way<'_>,
) -> Result<(), DropReason> {
    let (own, seen) = (way.pod.identity(), way.observed.seen());
    if seen.is_reply() {
        to_pod::rules(tables, headers, report, way.pod, Direction::Ingress, way.peer, seen)?;
        return match way.receiver {
            Some(opener) => to_pod::rules(tables, headers, report, opener, Direction::Egress, own, seen),
            None => Ok(()),
        };
    }
    to_pod::rules(tables, headers, report, way.pod, Direction::Egress, way.peer, seen)?;
    match way.receiver {
        Some(receiver) => to_pod::rules(tables, headers, report, receiver, Direction::Ingress, own, seen),
        None => Ok(()),
    }
}

/// A reply of a pod to itself: both ends get back what the pod believes them to be.
#[inline(always)]
fn to_itself<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    headers: &mut Headers,
    report: &mut Report,
    translation: &Translation,
    pod: &'t EndpointValue,
    own: &Address,
) -> Result<Verdict<'t>, DropReason> {
    let port = headers.tuple.destination_port;
    set_end(packet, headers, End::Destination, own, port)?;
    to_pod::restore_frontend(packet, tables, headers, translation)?;
    report.destination_identity = pod.identity();
    to_pod::deliver(packet, headers, pod)
}

#[inline(always)]
fn into_tunnel<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    ifindex: u32,
) -> Result<Verdict<'static>, DropReason> {
    if ifindex == 0 {
        return Err(DropReason::NoRoute);
    }
    if !packet.fits(ifindex) {
        // The stack has a route into the tunnel too, and tells the pod its size.
        return Ok(Verdict::Pass);
    }
    forward(packet, headers, Verdict::ToTunnel(ifindex))
}

#[inline(always)]
fn forward<P: Packet>(
    packet: &mut P,
    headers: &Headers,
    verdict: Verdict<'static>,
) -> Result<Verdict<'static>, DropReason> {
    match take_hop(packet, headers) {
        Ok(()) => Ok(verdict),
        // The stack sees the same and answers.
        Err(DropReason::TtlExceeded) => Ok(Verdict::Pass),
        Err(reason) => Err(reason),
    }
}

/// IPv6 between neighbours (RFC 4861): link-local or unspecified sender, ICMPv6.
#[inline(always)]
fn is_neighbour_discovery(headers: &Headers) -> bool {
    let s = &headers.sender;
    let link_local = s[0] == 0xfe && s[1] & 0xc0 == 0x80;
    let unspecified = *s == [0; 16];
    headers.is_v6() && headers.protocol == protocol::ICMPV6 && (link_local || unspecified)
}
