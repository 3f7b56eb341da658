//! Who an address belongs to and what the rules of a pod say, by looking at every entry.

use tombolo_abi::{
    ANY_PEER, Address, AddressFlags, AddressKey, AddressValue, BackendKey, Bitmap, Direction, EndpointFlags,
    EndpointValue, PolicyKey, ServiceKey, ServiceValue, SlotKey, identity, protocol,
};
use tombolo_datapath::testing::Memory;

use super::read::{End, Parsed};

/// What the rules say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Allow,
    Deny,
    /// The design says one thing and the product does the other, or neither says.
    Either,
}

impl Answer {
    /// What two sets of rules say together.
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Deny, _) | (_, Self::Deny) => Self::Deny,
            (Self::Either, _) | (_, Self::Either) => Self::Either,
            (Self::Allow, Self::Allow) => Self::Allow,
        }
    }
}

/// What the rules say about a packet, if it goes the way the connection was opened, and if it answers.
#[derive(Clone, Copy, Debug)]
pub struct Answers {
    pub forward: Answer,
    pub back: Answer,
}

impl Answers {
    pub fn both_allow(self) -> bool {
        (self.forward, self.back) == (Answer::Allow, Answer::Allow)
    }

    /// What two sets of rules say together.
    pub const fn and(self, other: Self) -> Self {
        Self { forward: self.forward.and(other.forward), back: self.back.and(other.back) }
    }
}

/// The pod with this address.
pub fn endpoint<'w>(world: &'w Memory, address: &Address) -> Option<&'w EndpointValue> {
    world.endpoints.get(&AddressKey::new(*address))
}

/// Who has an address.
pub fn owner(world: &Memory, address: &Address) -> AddressValue {
    if let Some(value) = world.addresses.get(&AddressKey::new(*address)) {
        return *value;
    }
    let bit = |address: &Address, at: u32| address[at as usize / 8] >> (7 - at % 8) & 1;
    let mut best: Option<(u32, AddressValue)> = None;
    for (prefix, value) in &world.prefixes {
        let len = prefix.prefix_len();
        let matches = (0..len).all(|at| bit(&prefix.address(), at) == bit(address, at));
        if matches && best.is_none_or(|(longest, _)| longest < len) {
            best = Some((len, *value));
        }
    }
    best.map_or(AddressValue::WORLD, |(_, value)| value)
}

/// Whether an address is behind the tunnel. An entry that says at the same time that it is one of the node's own is a
/// contradiction that nobody writes.
pub fn is_remote(value: AddressValue) -> bool {
    value.flags().contains(AddressFlags::TUNNEL)
}

/// Whether an address is one of the node's own.
pub fn is_own(value: AddressValue) -> bool {
    value.flags().contains(AddressFlags::HOST)
}

/// What the rules of `pod` say about the connection of a packet: its other end is `peer`, and it was opened to `port`. An
/// error that follows no connection (`follows`) is judged as what it is. Where an address is a pod's by one map and
/// somebody else's by another, either may have been asked.
pub fn answer(
    world: &Memory,
    pod: &EndpointValue,
    direction: Direction,
    peer: &Address,
    asked: (&Parsed, u16, bool),
) -> Answer {
    let by_owner = answer_to(world, pod, direction, owner(world, peer).identity(), asked);
    let by_pod = endpoint(world, peer).map(|peer| answer_to(world, pod, direction, peer.identity(), asked));
    if by_pod.is_none_or(|by_pod| by_pod == by_owner) { by_owner } else { Answer::Either }
}

fn answer_to(
    world: &Memory,
    pod: &EndpointValue,
    direction: Direction,
    peer: u32,
    (packet, port, follows): (&Parsed, u16, bool),
) -> Answer {
    let enforced = match direction {
        Direction::Ingress => EndpointFlags::INGRESS_ENFORCED,
        Direction::Egress => EndpointFlags::EGRESS_ENFORCED,
    };
    // The node is always let into its pods, and they may always send to it.
    if peer == identity::HOST || !pod.flags().contains(enforced) {
        return Answer::Allow;
    }
    let (number, port) = match packet.ends.protocol {
        _ if packet.is_error() && !follows => (packet.protocol, 0),
        number @ (protocol::TCP | protocol::UDP | protocol::SCTP) => (number, port),
        number => (number, 0),
    };
    let matches = |key: &PolicyKey| {
        let bits = key.prefix_len() - PolicyKey::ANY_PORT.min(key.prefix_len());
        key.endpoint() == pod.endpoint()
            && key.direction() == Some(direction)
            && (key.prefix_len() < PolicyKey::ANY_PORT || key.protocol_number() == number)
            && (0..bits).all(|bit| (key.first_port() ^ port) >> (15 - bit) & 1 == 0)
    };
    let rules = world.rules.iter().filter(|(key, _)| matches(key));
    let Some((_, rule)) = rules.max_by_key(|(key, _)| key.prefix_len()) else { return Answer::Deny };
    let known = world.identities.get(&peer);
    let has = |bit: u16| bit == ANY_PEER || known.is_some_and(|bits| bits.contains(bit));
    let hit = |bits: &Bitmap| (0..Bitmap::BITS).any(|bit| bits.contains(bit) && has(bit));
    match (hit(rule.deny()), hit(rule.allow())) {
        (true, _) | (_, false) => Answer::Deny,
        // A peer that is not described yet must not slip past a rule that denies others; today it does.
        (false, true) if known.is_none() && !rule.deny().is_empty() => Answer::Either,
        (false, true) => Answer::Allow,
    }
}

/// The service with this frontend.
pub fn service<'w>(world: &'w Memory, frontend: &End, number: u8) -> Option<&'w ServiceValue> {
    world.services.get(&ServiceKey::new(frontend.0, frontend.1, number))
}

/// What is in the slots of a service: backends, or nothing while its entries are being written.
pub fn backends(world: &Memory, service: &ServiceValue) -> Vec<Option<End>> {
    let backend = |slot| {
        let slot = world.slots.get(&SlotKey::new(service.id(), slot))?;
        let backend = world.backends.get(&BackendKey::new(slot.backend()))?;
        Some((backend.address(), backend.port()))
    };
    (0..service.count()).map(backend).collect()
}
