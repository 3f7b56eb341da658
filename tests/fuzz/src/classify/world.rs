//! A node with its maps, and any changes to them.

mod change;
mod connections;

use tombolo_abi::{
    AddressFlags, AddressKey, AddressValue, BackendFlags, BackendKey, BackendValue, Bitmap, ConfigBuilder,
    ConfigFlags, Direction, EndpointFlags, EndpointValue, NatPorts, NatTimeouts, PolicyKey, PolicyValue,
    PrefixKey, ServiceFlags, ServiceKey, ServiceValue, SlotKey, SlotValue, identity, protocol,
};
use tombolo_datapath::testing::Memory;

use super::addresses::{
    GATEWAY, NODE, OTHER_NODE, PODS, REMOTE, REMOTE_NODE, REMOTE_UNKNOWN, SIBLING, VIPS, address,
};
pub use change::change;

const SECOND: u64 = 1_000_000_000;
/// Selectors that rules name, besides the one that everybody has.
const BITS: [u16; 7] = [0, 1, 2, 63, 64, 500, 1023];
/// Services from this number on are of IPv6, and backends from twice of it on.
const V6: u32 = 4;

/// A node of a small cluster that is joined with another one, with services and rules for some pods.
pub fn usual() -> Memory {
    let mut world = Memory { policy_epoch: 1, ..Memory::default() };
    world.now.set(1000 * SECOND);
    let flags = ConfigFlags::MASQUERADE.with(ConfigFlags::SERVICES);
    world.config = config(flags, 9, NatPorts::one(61000, 65535), true).build();
    for v6 in [false, true] {
        let enforced = [
            EndpointFlags::NONE,
            EndpointFlags::INGRESS_ENFORCED,
            EndpointFlags::INGRESS_ENFORCED.with(EndpointFlags::EGRESS_ENFORCED),
        ];
        for (pod, flags) in PODS.into_iter().zip(enforced) {
            set_endpoint(&mut world, (pod, pod as u32 + 1), v6, pod as u32 + 1, 300 + pod as u32, flags);
        }
        let near = AddressFlags::NO_MASQUERADE;
        let owners = [
            (NODE, identity::HOST, AddressFlags::HOST),
            (GATEWAY, identity::HOST, AddressFlags::HOST),
            (OTHER_NODE, identity::REMOTE_NODE, near),
            (SIBLING, 310, near),
            (REMOTE, 400, AddressFlags::TUNNEL),
            (REMOTE_NODE, identity::REMOTE_NODE, AddressFlags::TUNNEL),
        ];
        for (who, identity, flags) in owners {
            world.addresses.insert(AddressKey::new(address(who, v6)), AddressValue::new(identity, flags));
        }
        let value = AddressValue::new(identity::INIT, AddressFlags::TUNNEL);
        world.prefixes.insert(prefix(REMOTE_UNKNOWN, v6, if v6 { 24 } else { 112 }), value);
        for (id, (vip, port, number, backends)) in (0..).zip([
            (VIPS[0], 80, protocol::TCP, [(PODS[1], 8080), (PODS[1], 8080)]),
            (VIPS[0], 53, protocol::UDP, [(PODS[2], 53), (SIBLING, 53)]),
            (VIPS[1], 80, protocol::TCP, [(PODS[0], 8080), (REMOTE, 80)]),
        ]) {
            serve(&mut world, id, ServiceKey::new(address(vip, v6), port, number), v6, &backends);
        }
    }
    for (identity, bits) in [(300, [0, 1]), (301, [0, 2]), (302, [0, 63]), (310, [0, 64]), (400, [0, 500])] {
        let mut selectors = Bitmap::ANY;
        bits.iter().for_each(|bit| _ = selectors.set(*bit));
        world.identities.insert(identity, selectors);
    }
    let rules = [
        (PolicyKey::port(2, Direction::Ingress, protocol::TCP, 8080), 0b10, 0),
        (PolicyKey::port(2, Direction::Ingress, protocol::UDP, 53), 0b1, 0b10_0000),
        (PolicyKey::any(3, Direction::Egress), 0b1, 0b100),
        (PolicyKey::protocol(3, Direction::Ingress, protocol::UDP), 0b1, 0),
        (PolicyKey::protocol(2, Direction::Ingress, protocol::ICMP), 0b11, 0),
    ];
    for (key, allow, deny) in rules {
        world.rules.insert(key, PolicyValue::new(bitmap(allow), bitmap(deny)));
    }
    world
}

fn config(flags: ConfigFlags, tunnel: u32, ports: NatPorts, has_address: bool) -> ConfigBuilder {
    let node = |v6| if has_address { address(NODE, v6) } else { [0; 16] };
    ConfigBuilder {
        node_v4: node(false),
        node_v6: node(true),
        gateway_v4: address(GATEWAY, false),
        gateway_v6: address(GATEWAY, true),
        tunnel_ifindex: tunnel,
        nat_ports: ports,
        nat_timeouts: NatTimeouts::DEFAULT,
        connection_limit: 0,
        flags,
    }
}

fn set_endpoint(
    world: &mut Memory,
    (pod, number): (usize, u32),
    v6: bool,
    device: u32,
    identity: u32,
    flags: EndpointFlags,
) {
    let key = AddressKey::new(address(pod, v6));
    let value = EndpointValue::new(device, number, identity, flags, [2; 6], [4; 6]);
    world.endpoints.insert(key, value);
    world.addresses.insert(key, AddressValue::new(identity, AddressFlags::NO_MASQUERADE));
}

/// Any flags of a set.
fn bitmap(bits: u8) -> Bitmap {
    let mut map = Bitmap::EMPTY;
    let chosen = BITS.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
    chosen.for_each(|(_, bit)| _ = map.set(*bit));
    map
}

fn prefix(who: usize, v6: bool, len: u8) -> PrefixKey {
    let len = len.min(128);
    let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    PrefixKey::new((u128::from_be_bytes(address(who, v6)) & mask).to_be_bytes(), len)
}

/// A frontend with two backends.
fn serve(world: &mut Memory, id: u32, frontend: ServiceKey, v6: bool, backends: &[(usize, u16); 2]) {
    let id = id + if v6 { V6 } else { 0 };
    world.services.insert(frontend, ServiceValue::new(id, 2, ServiceFlags::NONE));
    for (slot, (who, port)) in (0..).zip(backends) {
        let backend = id * 2 + slot;
        world.slots.insert(SlotKey::new(id, slot), SlotValue::new(backend));
        let value = BackendValue::new(address(*who, v6), *port, 1, BackendFlags::NONE);
        world.backends.insert(BackendKey::new(backend), value);
    }
}
