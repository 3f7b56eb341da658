//! What every packet into a local pod goes through.

use tombolo_abi::{Direction, DropReason, EndpointFlags, EndpointValue, Metric, identity};

use crate::{
    Headers, Packet, Report, Tables, Verdict,
    flow::{self, Local, Seen},
    policy::{self, Question},
    rewrite::{End, set_end, take_hop},
    source_port,
    tables::owner,
    translation::Translation,
};

/// A packet that is about to enter a pod.
pub struct Arrival {
    /// The identity of who sent it.
    pub sender: u32,
    /// Whether it was masqueraded on its way out, so that the pod has asked for it, however long ago.
    pub answers_pod: bool,
    /// The policy epoch, as it was before anything was looked up.
    pub epoch: u32,
}

/// Lets a packet into `pod` or refuses it. Replies to a translated connection come from its frontend again.
#[inline(always)]
pub fn admit<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    report: &mut Report,
    pod: &EndpointValue,
    arrival: &Arrival,
) -> Result<(), DropReason> {
    let Arrival { sender, answers_pod, epoch } = *arrival;
    report.destination_identity = pod.identity();
    let mut translation = Translation::none();
    let local = Local { sender: 0, receiver: pod.endpoint(), epoch, is_from_node: sender == identity::HOST };
    let observed = flow::observe(tables, headers, &mut translation, &local);
    let seen = observed.seen();
    // An error comes from anybody on the way, its connection from the other end.
    let follows = headers.is_error() && (answers_pod || seen != Seen::New);
    let peer = if follows { owner(tables, &headers.tuple.source).identity() } else { sender };
    if !observed.is_judged() {
        match seen {
            Seen::New if answers_pod => {
                rules(tables, headers, report, pod, Direction::Egress, peer, Seen::Reply)?;
            }
            _ if seen.is_reply() => rules(tables, headers, report, pod, Direction::Egress, peer, seen)?,
            _ => rules(tables, headers, report, pod, Direction::Ingress, peer, seen)?,
        }
    }
    match seen {
        Seen::New if answers_pod => flow::open_answered(tables, headers, &local)?,
        // A connection that was not translated here takes the place of one that was: its client has reused the port.
        Seen::New | Seen::Conflict => flow::open(tables, headers, &Translation::none(), &local, false)?,
        _ if !observed.is_judged() => flow::set_judged(tables, headers, &local),
        _ => {}
    }
    match seen {
        Seen::TranslatedReply | Seen::HairpinReply => restore_frontend(packet, tables, headers, &translation),
        _ => Ok(()),
    }
}

/// Asks the rules of a pod whether it may have the packet's connection, opened in this direction, with `peer`. "Traffic to and
/// from the node where a Pod is running is always allowed" (Kubernetes, Network Policies).
#[inline(always)]
pub fn rules<T: Tables>(
    tables: &T,
    headers: &Headers,
    report: &mut Report,
    pod: &EndpointValue,
    direction: Direction,
    peer: u32,
    seen: Seen,
) -> Result<(), DropReason> {
    let enforced = match direction {
        Direction::Ingress => EndpointFlags::INGRESS_ENFORCED,
        Direction::Egress => EndpointFlags::EGRESS_ENFORCED,
    };
    if peer == identity::HOST || !pod.flags().contains(enforced) {
        return Ok(());
    }
    report.direction = Some(direction);
    policy::check(tables, headers, &Question { endpoint: pod.endpoint(), direction, peer, seen })
}

/// Gives a reply the frontend as its sender, and its receiver the port that it has for itself.
#[inline(never)]
pub fn restore_frontend<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    translation: &Translation,
) -> Result<(), DropReason> {
    let (address, port) = (translation.frontend, translation.frontend_port);
    set_end(packet, headers, End::Source, &address, port)?;
    source_port::restore(packet, headers, translation)?;
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
