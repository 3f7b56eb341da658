//! What arrives on a physical device.

use tombolo_abi::{AddressFlags, AddressKey, ConfigFlags, Direction, DropReason};

use super::to_pod::{self, Arrival};
use crate::{
    Headers, Packet, Report, Tables, Verdict,
    flow::is_another,
    snat::{self, Behind},
    tables::{owner, same},
};

/// Judges and directs a packet from the underlay. Only what is for a pod is touched.
///
/// # Errors
/// Why the packet is dropped.
#[inline(always)]
pub fn net_ingress<'t, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &'t T,
    headers: &mut Headers,
    report: &mut Report,
) -> Result<Verdict<'t>, DropReason> {
    *report = Report::new(Direction::Ingress);
    let epoch = tables.policy_epoch();
    let Some(config) = tables.config() else { return Ok(Verdict::Pass) };
    let mut behind = Behind::default();
    let to_node = same(&headers.tuple.destination, config.node(headers.is_v6()));
    let answers_pod = to_node
        && config.flags().contains(ConfigFlags::MASQUERADE)
        && snat::find_behind(tables, config, headers, &mut behind);
    let destination = if answers_pod { behind.address } else { headers.tuple.destination };
    let Some(pod) = tables.endpoint(AddressKey::of(&destination)) else { return Ok(Verdict::Pass) };
    if answers_pod {
        if is_another(behind.endpoint, pod.endpoint()) {
            // The one that asked is gone: nobody has the port, and the stack says so.
            return Ok(Verdict::Pass);
        }
        snat::unmasquerade(packet, tables, headers, &behind)?;
    }
    let from = owner(tables, &headers.sender);
    report.source_identity = from.identity();
    // The node's own addresses and its pods never come from outside, other clusters only through the tunnel.
    let elsewhere = from.flags().intersects(AddressFlags::HOST.with(AddressFlags::TUNNEL));
    if elsewhere || tables.endpoint(AddressKey::of(&headers.sender)).is_some() {
        return Err(DropReason::SourceSpoofed);
    }
    to_pod::admit(
        packet,
        tables,
        headers,
        report,
        pod,
        &Arrival { sender: from.identity(), answers_pod, epoch },
    )?;
    to_pod::deliver(packet, headers, pod)
}
