//! What a pod sends.

use tombolo_abi::{
    Address, AddressFlags, AddressKey, ConfigFlags, Direction, DropReason, EndpointValue, protocol,
};

use super::to_pod;
use crate::{
    Headers, Packet, Tables, Verdict,
    flow::{self, Local, Observed, Seen},
    rewrite::{End, set_end, take_hop},
    service, source_port,
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
    let epoch = tables.policy_epoch();
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
    let other = tables.endpoint(AddressKey::of(&headers.tuple.destination));
    let receiver = other.map_or(0, EndpointValue::endpoint);
    let local = Local { sender: pod.endpoint(), receiver, epoch };
    let mut observed = flow::observe(tables, headers, &local);
    if source_port::may_be_needed(headers, observed.seen()) {
        source_port::make_way(packet, tables, headers, &own, observed.seen())?;
        observed = flow::observe(tables, headers, &local);
    }
    let seen = observed.seen();
    match seen {
        Seen::Conflict => return Err(DropReason::TranslationConflict),
        Seen::HairpinReply => return to_itself(packet, tables, headers, pod, &own),
        Seen::New | Seen::Original if hairpin => {
            if seen == Seen::New {
                flow::open(tables, headers, &local, true)?;
            }
            return to_pod::deliver(packet, headers, pod);
        }
        Seen::New | Seen::Original | Seen::Reply | Seen::TranslatedReply => {}
    }
    if let Some(other) = other {
        headers.destination_identity = other.identity();
        leave(packet, tables, headers, pod, Some(other), observed, &local)?;
        return to_pod::deliver(packet, headers, other);
    }
    let to = owner(tables, &headers.tuple.destination);
    headers.destination_identity = to.identity();
    leave(packet, tables, headers, pod, None, observed, &local)?;
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

/// Asks the rules of the pod, and those of the receiver if that is a pod here; records what is new.
#[inline(always)]
fn leave<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    pod: &EndpointValue,
    receiver: Option<&EndpointValue>,
    observed: Observed,
    local: &Local,
) -> Result<(), DropReason> {
    let seen = observed.seen();
    if !observed.is_judged() {
        judge(tables, headers, pod, receiver, seen)?;
        match seen {
            Seen::New => flow::open(tables, headers, local, false)?,
            _ => flow::set_judged(tables, headers, local),
        }
    }
    match seen {
        Seen::TranslatedReply => to_pod::restore_frontend(packet, tables, headers),
        _ => Ok(()),
    }
}

#[inline(always)]
fn judge<T: Tables>(
    tables: &T,
    headers: &mut Headers,
    pod: &EndpointValue,
    receiver: Option<&EndpointValue>,
    seen: Seen,
) -> Result<(), DropReason> {
    let (own, peer) = (headers.source_identity, headers.destination_identity);
    if seen.is_reply() {
        to_pod::rules(tables, headers, pod, Direction::Ingress, peer, seen)?;
        return match receiver {
            Some(opener) => to_pod::rules(tables, headers, opener, Direction::Egress, own, seen),
            None => Ok(()),
        };
    }
    to_pod::rules(tables, headers, pod, Direction::Egress, peer, seen)?;
    match receiver {
        Some(receiver) => to_pod::rules(tables, headers, receiver, Direction::Ingress, own, seen),
        None => Ok(()),
    }
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
