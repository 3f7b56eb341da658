//! Keys and values of the maps in the words of people.

use std::net::SocketAddr;

use tombolo_abi::{
    Account, AddressFlags, AddressKey, AddressValue, BackendFlags, BackendKey, BackendValue, Bitmap,
    Direction, EndpointFlags, EndpointValue, FlowFlags, FlowKey, FlowValue, OriginValue, PodConnections,
    PodKey, PolicyKey, PolicyValue, PrefixKey, ServiceKey, ServiceValue, SlotKey, SlotValue, SnatValue,
    SocketBackendValue, SocketKey, protocol,
};
use tombolo_model::{Address, Identity, Prefix};

use crate::mac;

/// Can be read by people.
pub(super) trait Show {
    /// In words.
    fn show(&self) -> String;
}

fn ip(octets: [u8; 16]) -> Address {
    Address::from_octets(octets)
}

fn socket(octets: [u8; 16], port: u16) -> SocketAddr {
    SocketAddr::new(ip(octets).to_ip(), port)
}

/// An IANA protocol number as people write it.
pub fn protocol_name(number: u8) -> String {
    match number {
        protocol::ICMP => "ICMP".into(),
        protocol::TCP => "TCP".into(),
        protocol::UDP => "UDP".into(),
        protocol::ICMPV6 => "ICMPv6".into(),
        protocol::SCTP => "SCTP".into(),
        other => other.to_string(),
    }
}

/// The words whose condition holds, each after a space.
fn words(conditions: &[(bool, &str)]) -> String {
    conditions.iter().filter(|(holds, _)| *holds).map(|(_, word)| format!(" {word}")).collect()
}

fn selectors(bitmap: &Bitmap) -> String {
    let set: Vec<_> =
        (0..Bitmap::BITS).filter(|&bit| bitmap.contains(bit)).map(|bit| bit.to_string()).collect();
    if set.is_empty() { "none".into() } else { set.join(",") }
}

impl Show for AddressKey {
    fn show(&self) -> String {
        ip(self.address()).to_string()
    }
}

impl Show for PrefixKey {
    fn show(&self) -> String {
        let bits = u8::try_from(self.prefix_len()).unwrap_or(128);
        Prefix::new(ip(self.address()), bits).to_string()
    }
}

impl Show for AddressValue {
    fn show(&self) -> String {
        let flags = self.flags();
        let flags = words(&[
            (flags.contains(AddressFlags::TUNNEL), "tunnel"),
            (flags.contains(AddressFlags::HOST), "host"),
            (flags.contains(AddressFlags::NO_MASQUERADE), "no-masquerade"),
        ]);
        format!("identity={}{flags}", Identity::from_bits(self.identity()))
    }
}

impl Show for EndpointValue {
    fn show(&self) -> String {
        let flags = self.flags();
        let flags = words(&[
            (flags.contains(EndpointFlags::INGRESS_ENFORCED), "ingress-enforced"),
            (flags.contains(EndpointFlags::EGRESS_ENFORCED), "egress-enforced"),
        ]);
        let identity = Identity::from_bits(self.identity());
        let (id, link, mac) = (self.endpoint(), self.ifindex(), mac::format(self.pod_mac()));
        format!("id={id} identity={identity} ifindex={link} mac={mac}{flags}")
    }
}

impl Show for u32 {
    fn show(&self) -> String {
        Identity::from_bits(*self).to_string()
    }
}

impl Show for Bitmap {
    fn show(&self) -> String {
        format!("selectors={}", selectors(self))
    }
}

impl Show for PolicyKey {
    fn show(&self) -> String {
        let direction = match self.direction() {
            Some(Direction::Ingress) => "ingress",
            Some(Direction::Egress) => "egress",
            None => "unknown",
        };
        let ports = match self.prefix_len() {
            0..=Self::ANY_PROTOCOL => "any".to_owned(),
            Self::ANY_PORT => format!("{}/any", protocol_name(self.protocol_number())),
            bits => {
                let first = self.first_port();
                let last = u32::from(first) + (1 << Self::EXACT.saturating_sub(bits)) - 1;
                format!("{}/{first}-{last}", protocol_name(self.protocol_number()))
            }
        };
        format!("endpoint={} {direction} {ports}", self.endpoint())
    }
}

impl Show for PolicyValue {
    fn show(&self) -> String {
        format!("allow={} deny={}", selectors(self.allow()), selectors(self.deny()))
    }
}

impl Show for ServiceKey {
    fn show(&self) -> String {
        format!("{} {}", socket(self.address(), self.port()), protocol_name(self.protocol()))
    }
}

impl Show for ServiceValue {
    fn show(&self) -> String {
        format!("service={} backends={}", self.id(), self.count())
    }
}

impl Show for SlotKey {
    fn show(&self) -> String {
        format!("service={} slot={}", self.service(), self.slot())
    }
}

impl Show for SlotValue {
    fn show(&self) -> String {
        format!("backend={}", self.backend())
    }
}

impl Show for BackendKey {
    fn show(&self) -> String {
        format!("backend={}", self.id())
    }
}

impl Show for BackendValue {
    fn show(&self) -> String {
        let flags = words(&[(self.flags().contains(BackendFlags::TERMINATING), "terminating")]);
        format!("{} cluster={}{flags}", socket(self.address(), self.port()), self.cluster())
    }
}

impl Show for FlowKey {
    fn show(&self) -> String {
        let source = socket(self.source(), self.source_port());
        let destination = socket(self.destination(), self.destination_port());
        let scope = self.scope().map_or_else(|| "unknown".to_owned(), |s| format!("{s:?}").to_lowercase());
        format!("{} {source} -> {destination} {scope}", protocol_name(self.protocol()))
    }
}

impl Show for FlowValue {
    fn show(&self) -> String {
        let translated = match self.backend() {
            0 => String::new(),
            backend => format!(" backend={backend} translated={}", socket(self.address(), self.port())),
        };
        let (opener, answerer, epoch) = (self.opener(), self.answerer(), self.epoch());
        let client_port = match self.client_port() {
            0 => String::new(),
            port => format!(" client-port={port}"),
        };
        format!(
            "last-seen={}ns opener={opener} answerer={answerer} epoch={epoch}{translated}{client_port}",
            self.last_seen()
        )
    }
}

impl Show for PodKey {
    fn show(&self) -> String {
        format!("endpoint={}", self.endpoint())
    }
}

impl Show for PodConnections {
    fn show(&self) -> String {
        let [opened, accepted] = [Account::Opened, Account::Accepted].map(|account| self.count(account));
        format!("opened={opened} accepted={accepted} counted-at={}ns", self.counted_at())
    }
}

impl Show for SnatValue {
    fn show(&self) -> String {
        let flags = self.flags();
        let state = words(&[
            (flags.contains(FlowFlags::REPLIED), "answered"),
            (flags.contains(FlowFlags::ESTABLISHED), "established"),
            (flags.is_closed(), "closed"),
        ]);
        let (to, seen, endpoint) = (socket(self.address(), self.port()), self.last_seen(), self.endpoint());
        format!("{to} last-seen={seen}ns endpoint={endpoint}{state}")
    }
}

impl Show for SocketKey {
    fn show(&self) -> String {
        format!("cookie={} {}", self.cookie(), socket(self.address(), self.port()))
    }
}

impl Show for SocketBackendValue {
    fn show(&self) -> String {
        format!("backend={}", self.backend())
    }
}

impl Show for OriginValue {
    fn show(&self) -> String {
        socket(self.address(), self.port()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_as_people_write_them() {
        let address = Address::from(std::net::Ipv4Addr::new(10, 1, 2, 3)).octets();
        assert_eq!(ServiceKey::new(address, 53, protocol::UDP).show(), "10.1.2.3:53 UDP");
        assert_eq!(PrefixKey::new(address, 112).show(), "10.1.0.0/16");
        assert_eq!(AddressValue::new(2, AddressFlags::TUNNEL).show(), "identity=world tunnel");
        let ports = PolicyKey::ports(7, Direction::Ingress, protocol::TCP, 8080, 12);
        assert_eq!(ports.show(), "endpoint=7 ingress TCP/8080-8095");
        assert_eq!(PolicyKey::any(7, Direction::Egress).show(), "endpoint=7 egress any");
    }
}
