//! What a pod sends.

use tombolo_abi::{
    Address, AddressFlags, AddressKey, ConfigFlags, Direction, DropReason, EndpointFlags, EndpointValue,
    protocol,
};

use super::to_pod;
use crate::{
    Headers, Packet, Tables, Verdict,
    flow::{self, Seen},
    policy,
    rewrite::{End, set_end, take_hop},
    service,
    tables::owner,
};

/// Judges and directs a packet that came out of the host-side veth `ifindex`.
///
/// # Errors
/// Why the packet is dropped.
#[inline(always)]
pub fn pod_egress<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    headers: &mut Headers,
    ifindex: u32,
) -> Result<Verdict<'t>, DropReason> {
    headers.direction = Some(Direction::Egress);
    if is_neighbour_discovery(headers) {
        return Ok(Verdict::Pass);
    }
    let pod = match tables.endpoint(AddressKey::of(&headers.sender)) {
        Some(pod) if pod.ifindex() == ifindex && headers.sender == headers.tuple.source => pod,
        _ => return Err(DropReason::SourceSpoofed),
    };
    headers.source_identity = pod.identity();
    let config = tables.config().ok_or(DropReason::NotConfigured)?;
    if !config.flags().contains(ConfigFlags::READY) {
        return Err(DropReason::NotConfigured);
    }
    if config.flags().contains(ConfigFlags::SERVICES) {
        service::translate(packet, tables, headers)?;
    }
    let own = headers.sender;
    let hairpin = headers.translated && headers.tuple.destination == own;
    if hairpin {
        let port = headers.tuple.source_port;
        set_end(packet, headers, End::Source, config.gateway(headers.is_v6()), port)?;
    }
    let seen = flow::observe(tables, headers);
    match seen {
        Seen::Conflict => return Err(DropReason::TranslationConflict),
        Seen::HairpinReply => return to_itself(packet, tables, headers, pod, &own),
        Seen::New | Seen::Original if hairpin => {
            if seen == Seen::New {
                flow::open(tables, headers, true)?;
            }
            return to_pod::deliver(packet, headers, pod);
        }
        Seen::New | Seen::Original | Seen::Reply | Seen::TranslatedReply => {}
    }
    if let Some(other) = tables.endpoint(AddressKey::of(&headers.tuple.destination)) {
        headers.destination_identity = other.identity();
        leave(packet, tables, headers, pod, seen, Some(other))?;
        return to_pod::deliver(packet, headers, other);
    }
    let to = owner(tables, &headers.tuple.destination);
    headers.destination_identity = to.identity();
    leave(packet, tables, headers, pod, seen, None)?;
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

/// Asks the rules of the pod, and of the other one when it is local; records what is new.
#[inline(always)]
fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    pod: &EndpointValue,
    seen: Seen,
    other: Option<&EndpointValue>,
) -> Result<(), DropReason> {
    match seen {
        Seen::TranslatedReply => return to_pod::restore_frontend(packet, tables, headers),
        Seen::Reply => return Ok(()),
        _ => {}
    }
    if pod.flags().contains(EndpointFlags::EGRESS_ENFORCED) {
        let peer = headers.destination_identity;
        policy::check(tables, headers, pod.endpoint(), Direction::Egress, peer)?;
    }
    if let Some(other) = other {
        to_pod::ingress_rules(tables, headers, other)?;
    }
    if seen == Seen::New { flow::open(tables, headers, false) } else { Ok(()) }
}

/// A reply of a pod to itself: both ends get back what the pod believes them to be.
#[inline(always)]
fn to_itself<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    headers: &mut Headers,
    pod: &'t EndpointValue,
    own: &Address,
) -> Result<Verdict<'t>, DropReason> {
    let port = headers.tuple.destination_port;
    set_end(packet, headers, End::Destination, own, port)?;
    to_pod::restore_frontend(packet, tables, headers)?;
    headers.destination_identity = pod.identity();
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
