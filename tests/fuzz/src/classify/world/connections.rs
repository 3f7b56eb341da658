//! Entries of connections that no packet has made.

use tombolo_abi::{FlowFlags, FlowKey, FlowValue, FragmentKey, FragmentValue, Scope, SnatValue};
use tombolo_datapath::testing::Memory;

use super::super::{
    addresses::{PODS, VIPS, address},
    build::{PORTS, ends},
    reference::{Ends, Reference},
};
use crate::input::Input;

const FLAGS: [FlowFlags; 7] = [
    FlowFlags::FROM_SOURCE,
    FlowFlags::REPLIED,
    FlowFlags::FIN_ORIGINAL,
    FlowFlags::FIN_REPLY,
    FlowFlags::RESET,
    FlowFlags::TRANSLATED,
    FlowFlags::HAIRPIN,
];

fn key(scope: Scope, ends: &Ends) -> FlowKey {
    FlowKey::new(scope, ends.from.0, ends.from.1, ends.to.0, ends.to.1, ends.protocol)
}

fn age(input: &mut Input<'_>) -> u64 {
    input.pick(&[0, 1, 30, 100, 600]) * 1_000_000_000
}

/// An entry of `FLOW`, for a connection or for the backend of a client.
pub fn insert_flow(input: &mut Input<'_>, world: &Memory, reference: &mut Reference) {
    let (choices, who) = (input.byte(), input.byte());
    let (ends, v6) = ends(input);
    let flags = FLAGS.iter().enumerate().filter(|(at, _)| choices >> at & 1 == 1);
    let flags = flags.fold(FlowFlags::NONE, |all, (_, flag)| all.with(*flag));
    let to = (address(if who & 1 == 0 { VIPS[0] } else { PODS[1] }, v6), PORTS[usize::from(who >> 1) % 8]);
    let last = world.now.get() - age(input);
    let value = FlowValue::new(last, flags).translated(u32::from(who >> 4), to.0, to.1);
    let scope = if choices & 0x80 == 0 { Scope::Connection } else { Scope::Service };
    // Whichever end comes first in the map.
    let turned = Ends { from: ends.to, to: ends.from, ..ends };
    world.flows.borrow_mut().extend([(key(scope, &ends), value), (key(scope, &turned), value)]);
    if scope == Scope::Connection {
        reference.connection_changed(&ends);
    } else {
        reference.choice_changed(ends);
        reference.choice_changed(turned);
    }
}

/// An entry of `SNAT`, for either direction.
pub fn insert_snat(input: &mut Input<'_>, world: &Memory, reference: &mut Reference) {
    let (choices, (ends, v6)) = (input.byte(), ends(input));
    let who = address(usize::from(choices & 3), v6);
    let (seen, port) = (world.now.get() - age(input), PORTS[usize::from(choices >> 2) % 8]);
    let value = SnatValue::new(seen, who, port, FlowFlags::NONE, u32::from(choices >> 5 & 3));
    let scope = if choices & 0x80 == 0 { Scope::Forward } else { Scope::Reverse };
    world.snat.borrow_mut().insert(key(scope, &ends), value);
    reference.nat_changed(ends.from.0, ends.protocol);
    reference.nat_changed(ends.to.0, ends.protocol);
}

/// The ports of a datagram.
pub fn insert_fragment(input: &mut Input<'_>, world: &Memory, reference: &mut Reference) {
    let (id, (ends, _)) = (u32::from(input.byte() & 31), ends(input));
    let key = FragmentKey::new(ends.from.0, ends.to.0, id, ends.protocol);
    world.fragments.borrow_mut().insert(key, FragmentValue::new(ends.from.1, ends.to.1));
    reference.fragment_changed((ends.from.0, ends.to.0, id, ends.protocol), (ends.from.1, ends.to.1));
}

/// The map is full and drops one of its entries.
pub fn forget(input: &mut Input<'_>, world: &Memory, reference: &mut Reference) {
    let (of_snat, which) = (input.flag(), usize::from(input.byte()));
    let ends = |key: &FlowKey| Ends {
        from: (key.source(), key.source_port()),
        to: (key.destination(), key.destination_port()),
        protocol: key.protocol(),
    };
    if of_snat {
        let mut snat = world.snat.borrow_mut();
        let Some(key) = snat.keys().nth(which % snat.len().max(1)).copied() else { return };
        snat.remove(&key);
        reference.nat_changed(key.source(), key.protocol());
        reference.nat_changed(key.destination(), key.protocol());
        return;
    }
    let mut flows = world.flows.borrow_mut();
    let Some(key) = flows.keys().nth(which % flows.len().max(1)).copied() else { return };
    flows.remove(&key);
    match key.scope() {
        Some(Scope::Service) => reference.choice_changed(ends(&key)),
        _ => reference.connection_changed(&ends(&key)),
    }
}
