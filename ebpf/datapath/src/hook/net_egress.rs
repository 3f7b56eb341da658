//! What is about to leave on a physical device.

use tombolo_abi::{AddressFlags, AddressKey, ConfigFlags, Direction, DropReason, identity};

use crate::{
    Headers, Packet, Report, Tables, Verdict,
    flow::{self, Local},
    snat,
    tables::{owner, same},
    translation::Translation,
};

/// Masquerades what pods send to the outside, and keeps what belongs into the tunnel from leaving in clear.
///
/// # Errors
/// Why the packet is dropped.
#[inline(always)]
pub fn net_egress<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    headers: &mut Headers,
    report: &mut Report,
) -> Result<Verdict<'static>, DropReason> {
    *report = Report::new(Direction::Egress);
    let to = owner(tables, &headers.tuple.destination);
    report.destination_identity = to.identity();
    let pod = tables.endpoint(AddressKey::of(&headers.sender));
    if to.flags().contains(AddressFlags::TUNNEL) {
        // The node talks to other nodes itself, by protocols that encrypt.
        let between_nodes = pod.is_none() && to.identity() == identity::REMOTE_NODE;
        return if between_nodes { Ok(Verdict::Pass) } else { Err(DropReason::Unencrypted) };
    }
    let Some(pod) = pod else { return Ok(Verdict::Pass) };
    report.source_identity = pod.identity();
    if to.flags().intersects(AddressFlags::NO_MASQUERADE.with(AddressFlags::HOST)) {
        return Ok(Verdict::Pass);
    }
    let Some(config) = tables.config() else { return Err(DropReason::NotConfigured) };
    if !config.flags().contains(ConfigFlags::MASQUERADE) || same(config.node(headers.is_v6()), &[0; 16]) {
        return Ok(Verdict::Pass);
    }
    // Who reached a pod by its own address is answered from that address.
    let local = Local { sender: pod.endpoint(), receiver: 0, epoch: 0, is_from_node: false };
    if flow::observe(tables, headers, &mut Translation::none(), &local).seen().is_reply() {
        return Ok(Verdict::Pass);
    }
    snat::masquerade(packet, tables, config, headers, pod.endpoint())?;
    Ok(Verdict::Pass)
}
