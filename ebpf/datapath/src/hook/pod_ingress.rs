//! What the node's stack sends to a pod: probes, other traffic of the node, answers of services on the node.

use tombolo_abi::{AddressKey, Direction, DropReason};

use super::to_pod::{self, Arrival};
use crate::{Headers, Packet, Report, Tables, Verdict, tables::owner};

/// Judges a packet that is about to enter the pod behind the host-side veth `ifindex`.
///
/// # Errors
/// Why the packet is dropped.
#[inline(always)]
pub fn pod_ingress<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    report: &mut Report,
    ifindex: u32,
) -> Result<Verdict<'static>, DropReason> {
    *report = Report::new(Direction::Ingress);
    let epoch = tables.policy_epoch();
    if headers.is_v6() && is_local_only(&headers.tuple.destination) {
        // Neighbour discovery between the two ends of the veth.
        return Ok(Verdict::Pass);
    }
    let pod = match tables.endpoint(AddressKey::of(&headers.tuple.destination)) {
        Some(pod) if pod.ifindex() == ifindex => pod,
        _ => return Err(DropReason::NoRoute),
    };
    let sender = owner(tables, &headers.sender).identity();
    report.source_identity = sender;
    let arrival = Arrival { sender, answers_pod: false, epoch };
    to_pod::admit(packet, tables, headers, report, pod, &arrival)?;
    Ok(Verdict::Pass)
}

/// Whether an IPv6 address means only neighbours: link-local unicast or multicast (RFC 4291).
#[inline(always)]
fn is_local_only(address: &[u8; 16]) -> bool {
    address[0] == 0xff || (address[0] == 0xfe && address[1] & 0xc0 == 0x80)
}
