//! Tables as lines of text, in the order in which updates are written.

use std::{collections::BTreeSet, fmt::Display};

use tombolo_abi::{
    AddressFlags, AddressValue, BackendFlags, Bitmap, EndpointFlags, PolicyKey, PrefixKey, ServiceKey,
};
use tombolo_model::{Address, Identity, Prefix, Protocol};
use tombolo_node_core::{routes::NextHop, state::State};

/// Every entry of every table, and every problem.
pub(crate) fn lines(state: &mut State) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut add = |table: &str, key: String, value: String| {
        lines.insert(format!("{table} {key} = {value}"));
    };
    for (key, peer) in state.peers().entries() {
        let (address, port) = peer.endpoint;
        let value = format!("{address} port {port}, allowed {}", list(&peer.allowed_ips));
        add("peer", format!("{:02x}..", key[0]), value);
    }
    for (prefix, next_hop) in state.routes().entries() {
        let value = match next_hop {
            NextHop::Gateway(address) => format!("via {address}"),
            NextHop::Tunnel => "dev tunnel".to_owned(),
        };
        add("route", prefix.to_string(), value);
    }
    for (identity, bitmap) in state.identity().entries() {
        add("IDENTITY", Identity::from_bits(*identity).to_string(), bits(bitmap));
    }
    for (key, value) in state.prefix().entries() {
        add("PREFIX", prefix(key), owner(value));
    }
    for (key, value) in state.address().entries() {
        add("ADDRESS", Address::from_octets(key.address()).to_string(), owner(value));
    }
    for (key, value) in state.policy().entries() {
        assert!(value.deny().is_empty());
        add("POLICY", scope(key), format!("allow {}", bits(value.allow())));
    }
    for (key, value) in state.endpoint().entries() {
        let flags = [
            (EndpointFlags::INGRESS_ENFORCED, " ingress-enforced"),
            (EndpointFlags::EGRESS_ENFORCED, " egress-enforced"),
        ];
        let flags: String =
            flags.iter().filter(|(f, _)| value.flags().contains(*f)).map(|(_, s)| *s).collect();
        let (id, identity) = (value.endpoint(), Identity::from_bits(value.identity()));
        add(
            "ENDPOINT",
            Address::from_octets(key.address()).to_string(),
            format!("{id} identity {identity}{flags}"),
        );
    }
    for (key, value) in state.backend().entries() {
        let state = if value.flags().contains(BackendFlags::TERMINATING) { " terminating" } else { "" };
        let address = std::net::SocketAddr::new(Address::from_octets(value.address()).to_ip(), value.port());
        add("BACKEND", key.id().to_string(), format!("{address} in {}{state}", value.cluster()));
    }
    for (key, value) in state.slot().entries() {
        add("SLOT", format!("{}/{}", key.service(), key.slot()), format!("backend {}", value.backend()));
    }
    for (key, value) in state.service().entries() {
        add("SERVICE", frontend(key), format!("{} with {} backends", value.id(), value.count()));
    }
    for problem in state.problems() {
        lines.insert(format!("problem: {problem}"));
    }
    lines
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn bits(bitmap: &Bitmap) -> String {
    let bits = (0..Bitmap::BITS).filter(|bit| bitmap.contains(*bit));
    list(bits.map(|bit| if bit == 0 { "any".to_owned() } else { bit.to_string() }))
}

fn prefix(key: &PrefixKey) -> String {
    let len = u8::try_from(key.prefix_len()).unwrap();
    Prefix::new(Address::from_octets(key.address()), len).to_string()
}

fn owner(value: &AddressValue) -> String {
    let flags = [
        (AddressFlags::TUNNEL, " tunnel"),
        (AddressFlags::HOST, " host"),
        (AddressFlags::NO_MASQUERADE, " no-masquerade"),
    ];
    let flags: String = flags.iter().filter(|(f, _)| value.flags().contains(*f)).map(|(_, s)| *s).collect();
    format!("{}{flags}", Identity::from_bits(value.identity()))
}

fn scope(key: &PolicyKey) -> String {
    let direction = key.direction().unwrap();
    let ports = match key.prefix_len() {
        PolicyKey::ANY_PROTOCOL => "all".to_owned(),
        len => {
            let protocol = Protocol::from_number(key.protocol_number()).unwrap();
            let span = u16::try_from((1u32 << (PolicyKey::EXACT - len)) - 1).unwrap();
            format!("{protocol} {}-{}", key.first_port(), key.first_port() + span)
        }
    };
    format!("{} {direction:?} {ports}", key.endpoint())
}

fn frontend(key: &ServiceKey) -> String {
    let address = std::net::SocketAddr::new(Address::from_octets(key.address()).to_ip(), key.port());
    format!("{address}/{}", Protocol::from_number(key.protocol()).unwrap())
}
