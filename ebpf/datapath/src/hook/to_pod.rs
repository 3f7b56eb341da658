//! What every packet into a local pod goes through.

use tombolo_abi::{Direction, DropReason, EndpointFlags, EndpointValue, Metric, identity};

use crate::{
    Headers, Packet, Tables, Verdict,
    flow::{self, Seen},
    policy,
    rewrite::{End, set_end, take_hop},
};

/// Lets a packet into `pod` or refuses it; `headers.source_identity` says who sent it. Replies to a translated
/// connection come from its frontend again.
#[inline(always)]
pub fn admit<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    pod: &EndpointValue,
) -> Result<(), DropReason> {
    headers.direction = Some(Direction::Ingress);
    headers.destination_identity = pod.identity();
    let seen = flow::observe(tables, headers);
    match seen {
        Seen::Reply => return Ok(()),
        Seen::TranslatedReply | Seen::HairpinReply => return restore_frontend(packet, tables, headers),
        Seen::New | Seen::Original | Seen::Conflict => {}
    }
    ingress_rules(tables, headers, pod)?;
    // A connection that was not translated here takes the place of one that was: its client has reused the port.
    if seen == Seen::Original { Ok(()) } else { flow::open(tables, headers, false) }
}

/// Asks the pod's ingress rules.
#[inline(always)]
pub fn ingress_rules<T: Tables>(
    tables: &T,
    headers: &mut Headers,
    pod: &EndpointValue,
) -> Result<(), DropReason> {
    let peer = headers.source_identity;
    if peer == identity::HOST || !pod.flags().contains(EndpointFlags::INGRESS_ENFORCED) {
        return Ok(());
    }
    policy::check(tables, headers, pod.endpoint(), Direction::Ingress, peer)
}

/// Gives a reply the frontend as its sender.
#[inline(always)]
pub fn restore_frontend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
) -> Result<(), DropReason> {
    let (address, port) = (headers.frontend, headers.frontend_port);
    set_end(packet, headers, End::Source, &address, port)?;
    tables.count(Metric::ReplyTranslated, packet.len());
    Ok(())
}

/// Hands an admitted packet to its pod. One without a hop left goes to the stack, which answers it.
#[inline(always)]
pub fn deliver<'t, P: Packet>(
    packet: &mut P,
    headers: &Headers,
    pod: &'t EndpointValue,
) -> Result<Verdict<'t>, DropReason> {
    match take_hop(packet, headers) {
        Ok(()) => Ok(Verdict::ToPod(pod)),
        Err(DropReason::TtlExceeded) => Ok(Verdict::Pass),
        Err(reason) => Err(reason),
    }
}
