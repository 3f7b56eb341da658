//! What arrives from other clusters through the tunnel.

use tombolo_abi::{AddressFlags, AddressKey, Direction, DropReason, Metric};

use super::to_pod::{self, Arrival};
use crate::{Headers, Packet, Report, Tables, Verdict, tables::owner};

/// Judges and directs a packet from the tunnel, which has authenticated the node it comes from and that the sender's
/// address belongs there.
///
/// # Errors
/// Why the packet is dropped.
#[inline(always)]
pub fn mesh_ingress<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    headers: &mut Headers,
    report: &mut Report,
) -> Result<Verdict<'t>, DropReason> {
    *report = Report::new(Direction::Ingress);
    let epoch = tables.policy_epoch();
    let from = owner(tables, &headers.sender);
    report.source_identity = from.identity();
    if !from.flags().contains(AddressFlags::TUNNEL) {
        return Err(DropReason::SourceSpoofed);
    }
    tables.count(Metric::FromTunnel, packet.len());
    if let Some(pod) = tables.endpoint(AddressKey::of(&headers.tuple.destination)) {
        let arrival = Arrival { sender: from.identity(), answers_pod: false, epoch };
        to_pod::admit(packet, tables, headers, report, pod, &arrival)?;
        return to_pod::deliver(packet, headers, pod);
    }
    let to = owner(tables, &headers.tuple.destination);
    report.destination_identity = to.identity();
    // A node is no way from one cluster to another, nor to the outside.
    if to.flags().contains(AddressFlags::HOST) { Ok(Verdict::Pass) } else { Err(DropReason::NoRoute) }
}
