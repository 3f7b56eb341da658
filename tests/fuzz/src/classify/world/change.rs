//! Changes of the maps: by the control plane, of the clock, and of what the datapath remembers.

use tombolo_abi::{
    AddressFlags, AddressKey, AddressValue, BackendFlags, BackendKey, BackendValue, Bitmap, Config,
    ConfigFlags, Direction, EndpointFlags, NatPorts, PolicyKey, PolicyValue, ServiceFlags, ServiceKey,
    ServiceValue, SlotKey, SlotValue, identity,
};
use tombolo_datapath::testing::Memory;

use super::{
    super::{
        addresses::{NODE, OUTSIDE, PODS, REMOTE, REMOTE_UNKNOWN, SIBLING, VIPS, address},
        build::{PORTS, PROTOCOLS},
        reference::Reference,
    },
    SECOND, V6, bitmap, config, connections, prefix, set_endpoint,
};
use crate::input::Input;

/// The time between two readings of the coarse clock, with 250 of them in a second.
const TICK: u64 = SECOND / 250;

/// Identities that peers have.
const IDENTITIES: [u32; 10] = [
    identity::UNKNOWN,
    identity::HOST,
    identity::WORLD,
    identity::REMOTE_NODE,
    identity::INIT,
    300,
    301,
    302,
    310,
    400,
];

/// Changes one thing, and says so to the reference.
pub fn change(input: &mut Input<'_>, world: &mut Memory, reference: &mut Reference) {
    match input.byte() % 16 {
        0 => change_endpoint(input, world),
        1 => change_owner(input, world),
        2 => change_prefix(input, world),
        3 => change_identity(input, world),
        4 | 5 => change_rules(input, world),
        6 => {
            let flags = [(ConfigFlags::MASQUERADE, input.flag()), (ConfigFlags::SERVICES, input.flag())];
            let flags = flags
                .into_iter()
                .filter(|(_, on)| *on)
                .fold(ConfigFlags::NONE, |all, (flag, _)| all.with(flag));
            let ports = input.pick(&[
                NatPorts::one(61000, 65535),
                NatPorts::new((61000, 61000), (61001, 61001)),
                NatPorts::one(1000, 1000),
                NatPorts::DEFAULT,
            ]);
            let (tunnel, choices) = (input.pick(&[9, 9, 0]), input.byte());
            let config = config(flags, tunnel, ports, choices & 1 == 0).build();
            // Perhaps nobody has written it yet.
            world.config = if choices & 2 == 0 { config } else { Config::default() };
        }
        7 | 8 => {
            let v6 = input.flag();
            change_service(input, world, v6);
            return reference.services_changed();
        }
        9 => {
            let seconds = input.pick(&[0, 1, 9, 11, 59, 61, 179, 181, 3600, 9 * 3600]);
            let (now, more) = (world.now.get(), input.byte());
            // Or the next packet is on a CPU that has read the clock a tick before.
            let behind = seconds == 0 && more & 0x80 != 0;
            return world.now.set(if behind { now - TICK } else { now + seconds * SECOND + u64::from(more) });
        }
        10 => return world.chance.set(u32::from_be_bytes(input.array())),
        11 => return world.full = input.flag(),
        12 => return connections::insert_flow(input, world, reference),
        13 => return connections::insert_snat(input, world, reference),
        14 => return connections::insert_fragment(input, world, reference),
        _ => return connections::forget(input, world, reference),
    }
    // As the agent does after it has changed who is who, or who may do what.
    world.policy_epoch += 1;
}

fn change_endpoint(input: &mut Input<'_>, world: &mut Memory) {
    let (who, choices) = (input.byte(), input.byte());
    let (v6, pod) = (who & 0x80 != 0, [0, 1, 2, SIBLING][usize::from(who) % 4]);
    if choices & 1 == 0 {
        world.endpoints.remove(&AddressKey::new(address(pod, v6)));
        return;
    }
    let ingress = if choices & 2 == 0 { EndpointFlags::NONE } else { EndpointFlags::INGRESS_ENFORCED };
    let egress = if choices & 4 == 0 { EndpointFlags::NONE } else { EndpointFlags::EGRESS_ENFORCED };
    let identity = input.pick(&IDENTITIES);
    // One life of a pod or the next.
    let number = pod as u32 + if choices & 0x20 == 0 { 1 } else { 11 };
    set_endpoint(world, (pod, number), v6, u32::from(choices >> 3 & 3), identity, ingress.with(egress));
}

fn owner(input: &mut Input<'_>) -> AddressValue {
    let flags = input.pick(&[
        AddressFlags::NONE,
        AddressFlags::TUNNEL,
        AddressFlags::HOST,
        AddressFlags::NO_MASQUERADE,
        AddressFlags::TUNNEL.with(AddressFlags::NO_MASQUERADE),
        AddressFlags::TUNNEL.with(AddressFlags::HOST),
    ]);
    AddressValue::new(input.pick(&IDENTITIES), flags)
}

fn change_owner(input: &mut Input<'_>, world: &mut Memory) {
    let who = input.byte();
    let key = AddressKey::new(address(who.into(), who & 0x80 != 0));
    if who & 0x40 == 0 {
        world.addresses.insert(key, owner(input));
    } else {
        world.addresses.remove(&key);
    }
}

fn change_prefix(input: &mut Input<'_>, world: &mut Memory) {
    let (who, len) = (input.byte(), input.byte());
    let key = prefix(who.into(), who & 0x80 != 0, len);
    if who & 0x40 == 0 {
        world.prefixes.insert(key, owner(input));
    } else {
        world.prefixes.remove(&key);
    }
}

fn change_identity(input: &mut Input<'_>, world: &mut Memory) {
    let (identity, bits) = (input.pick(&IDENTITIES), input.byte());
    if bits & 0x80 == 0 {
        world.identities.insert(identity, bitmap(bits).union(&Bitmap::ANY));
    } else {
        world.identities.remove(&identity);
    }
}

fn change_rules(input: &mut Input<'_>, world: &mut Memory) {
    let (choices, number, bits) = (input.byte(), input.pick(&PROTOCOLS), input.byte() % 17);
    let direction = if choices & 4 == 0 { Direction::Ingress } else { Direction::Egress };
    let endpoint = u32::from(choices & 3) + if choices & 0x60 == 0x60 { 11 } else { 1 };
    let port = input.pick(&PORTS);
    let mask = u16::MAX.checked_shl(16 - u32::from(bits)).unwrap_or(0);
    let key = match choices >> 3 & 3 {
        0 => PolicyKey::any(endpoint, direction),
        1 => PolicyKey::protocol(endpoint, direction, number),
        _ => PolicyKey::ports(endpoint, direction, number, port & mask, bits),
    };
    if choices & 0x80 == 0 {
        world.rules.insert(key, PolicyValue::new(bitmap(input.byte()), bitmap(input.byte())));
    } else {
        world.rules.remove(&key);
    }
}

/// One of the entries of services of a family. Frontends are addresses that nobody else has, and backends are of the
/// frontend's family, as the control plane sees to it.
fn change_service(input: &mut Input<'_>, world: &mut Memory, v6: bool) {
    let (choices, id) = (input.byte(), u32::from(input.byte() % 4) + if v6 { V6 } else { 0 });
    let slot = SlotKey::new(id, u32::from(choices >> 4 & 3));
    let backend = u32::from(input.byte() % 8) + if v6 { 2 * V6 } else { 0 };
    match choices % 6 {
        0 | 1 => {
            let vip = address(VIPS[usize::from(choices >> 4 & 1)], v6);
            let key = ServiceKey::new(vip, input.pick(&PORTS), input.pick(&PROTOCOLS));
            let count = u32::from(input.byte() % 4);
            if choices & 0x80 == 0 {
                world.services.insert(key, ServiceValue::new(id, count, ServiceFlags::NONE));
            } else {
                world.services.remove(&key);
            }
        }
        2 => _ = world.slots.insert(slot, SlotValue::new(backend)),
        3 => _ = world.slots.remove(&slot),
        4 => {
            let who =
                input.pick(&[PODS[0], PODS[1], PODS[2], SIBLING, REMOTE, REMOTE_UNKNOWN, OUTSIDE[0], NODE]);
            let value = BackendValue::new(address(who, v6), input.pick(&PORTS), 1, BackendFlags::NONE);
            world.backends.insert(BackendKey::new(backend), value);
        }
        _ => _ = world.backends.remove(&BackendKey::new(backend)),
    }
}
