//! A packet and tables in memory, for tests; to others with feature `testing`.
#![expect(clippy::unwrap_used, reason = "a packet that cannot be built ends the test")]

mod summed;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use tombolo_abi::{
    Address, AddressKey, AddressValue, BackendKey, BackendValue, Bitmap, Config, EndpointValue, FlowKey,
    FlowValue, FragmentKey, FragmentValue, Metric, OriginValue, PodConnections, PodKey, PolicyKey,
    PolicyValue, PrefixKey, ServiceKey, ServiceValue, SlotKey, SlotValue, SnatValue, SocketBackendValue,
    SocketKey, protocol,
};

pub use summed::Summed;

use crate::{Link, Packet, Tables, Tuple, checksum};

/// The Internet checksum (RFC 1071) over all bytes, by the book.
pub fn full_checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// The CRC32c (RFC 9260, appendix A) over all bytes, bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let step = |r: u32| if r & 1 == 1 { r >> 1 ^ 0x82f6_3b78 } else { r >> 1 };
    !bytes.iter().fold(!0, |r, byte| (0..8).fold(r ^ u32::from(*byte), |r, _| step(r)))
}

/// A frame in memory: its bytes from the first header on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    /// A TCP, UDP or ICMP echo packet over IPv4 in an Ethernet frame, with right checksums. For an echo the first
    /// port is the identifier.
    pub fn new(number: u8, from: (Address, u16), to: (Address, u16), payload: &[u8]) -> Self {
        let mut l4 = match number {
            protocol::TCP => vec![0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0],
            protocol::UDP => vec![0, 0, 0, 0, 0, u8::try_from(8 + payload.len()).unwrap(), 0, 0],
            _ => vec![8, 0, 0, 0, 0, 0, 0, 1],
        };
        let (field, port_at) = match number {
            protocol::TCP => (16, 0),
            protocol::UDP => (6, 0),
            _ => (2, 4),
        };
        l4[port_at..port_at + 2].copy_from_slice(&from.1.to_be_bytes());
        if number != protocol::ICMP {
            l4[2..4].copy_from_slice(&to.1.to_be_bytes());
        }
        l4.extend(payload);
        let mut ip = vec![0x45, 0, 0, 0, 0, 7, 0, 0, 64, number, 0, 0];
        ip[2..4].copy_from_slice(&u16::try_from(20 + l4.len()).unwrap().to_be_bytes());
        ip.extend(&from.0[12..]);
        ip.extend(&to.0[12..]);
        let header_checksum = full_checksum(&ip);
        ip[10..12].copy_from_slice(&header_checksum);
        let mut frame = vec![2; 12];
        frame.extend([8, 0]);
        frame.extend(ip);
        frame.extend(l4);
        let mut frame = Self(frame);
        let l4_checksum = match frame.transport_checksum() {
            // Zero would say that there is none (RFC 768).
            [0, 0] if number == protocol::UDP => [0xff, 0xff],
            sum => sum,
        };
        frame.0[34 + field..36 + field].copy_from_slice(&l4_checksum);
        frame
    }

    /// Source and destination with ports (identifier of an echo).
    pub fn ends(&self) -> ((Address, u16), (Address, u16)) {
        let b = &self.0;
        let address = |i: usize| tombolo_abi::v4_mapped([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let port = |i: usize| u16::from_be_bytes([b[i], b[i + 1]]);
        let (s, d) = if b[23] == protocol::ICMP { (38, 38) } else { (34, 36) };
        ((address(26), port(s)), (address(30), port(d)))
    }

    /// Whether all checksums are right.
    pub fn is_sound(&self) -> bool {
        let right = |sum: [u8; 2]| sum == [0, 0] || sum == [0xff, 0xff];
        right(full_checksum(&self.0[14..34])) && right(self.transport_checksum())
    }

    /// The sum over transport and pseudo header; zero when the field is right.
    fn transport_checksum(&self) -> [u8; 2] {
        let l4 = &self.0[34..];
        let mut summed = Vec::new();
        if self.0[23] != protocol::ICMP {
            summed.extend(&self.0[26..34]);
            summed.extend([0, self.0[23]]);
            summed.extend(u16::try_from(l4.len()).unwrap().to_be_bytes());
        }
        summed.extend(l4);
        full_checksum(&summed)
    }
}

impl Packet for Frame {
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap()
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.0.get(offset..offset + N)?.try_into().ok()
    }

    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.0.get_mut(offset..offset + N)?.copy_from_slice(&bytes);
        Some(())
    }

    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.store(offset, bytes)
    }

    fn add_checksum(&mut self, offset: usize, difference: u32, _: bool, zero_is_none: bool) -> Option<()> {
        let field = self.load::<2>(offset)?;
        if zero_is_none && field == [0, 0] {
            return Some(());
        }
        let updated = checksum::update(field, difference);
        self.store(offset, if zero_is_none && updated == [0, 0] { [0xff, 0xff] } else { updated })
    }

    fn route(&mut self, _: &Tuple, _: bool) -> bool {
        true
    }

    fn has_socket(&mut self, _: &Tuple, _: bool) -> bool {
        false
    }

    fn set_len(&mut self, len: usize) -> Option<()> {
        self.0.resize(len, 0);
        Some(())
    }

    fn take_out(&mut self, count: usize) -> Option<()> {
        let link = Link::Ethernet.header_len();
        (link + count <= self.0.len()).then(|| drop(self.0.drain(link..link + count)))
    }

    fn fits(&mut self, _: u32) -> bool {
        true
    }
}

/// Maps in memory, a clock that stands still unless moved, and chance that counts. The maps are those that the methods of
/// [`Tables`] read.
#[derive(Clone, Default)]
#[expect(missing_docs, reason = "one field per map, documented with its key")]
pub struct Memory {
    /// Nanoseconds since boot.
    pub now: Cell<u64>,
    /// The number drawn last.
    pub chance: Cell<u32>,
    /// Whether the maps of connections refuse new entries.
    pub full: bool,
    pub config: Config,
    pub policy_epoch: u32,
    pub endpoints: BTreeMap<AddressKey, EndpointValue>,
    pub addresses: BTreeMap<AddressKey, AddressValue>,
    pub prefixes: BTreeMap<PrefixKey, AddressValue>,
    pub identities: BTreeMap<u32, Bitmap>,
    pub rules: BTreeMap<PolicyKey, PolicyValue>,
    pub services: BTreeMap<ServiceKey, ServiceValue>,
    pub slots: BTreeMap<SlotKey, SlotValue>,
    pub backends: BTreeMap<BackendKey, BackendValue>,
    pub flows: RefCell<BTreeMap<FlowKey, FlowValue>>,
    pub pod_connections: RefCell<BTreeMap<PodKey, PodConnections>>,
    pub snat: RefCell<BTreeMap<FlowKey, SnatValue>>,
    pub fragments: RefCell<BTreeMap<FragmentKey, FragmentValue>>,
    pub origins: RefCell<BTreeMap<SocketKey, OriginValue>>,
    pub socket_backends: RefCell<BTreeMap<SocketKey, SocketBackendValue>>,
}

impl Tables for Memory {
    fn now(&self) -> u64 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        self.chance.set(self.chance.get().wrapping_add(1));
        self.chance.get()
    }

    fn config(&self) -> Option<&Config> {
        Some(&self.config)
    }

    fn policy_epoch(&self) -> u32 {
        self.policy_epoch
    }

    fn endpoint(&self, key: &AddressKey) -> Option<&EndpointValue> {
        self.endpoints.get(key)
    }

    fn address(&self, key: &AddressKey) -> Option<&AddressValue> {
        self.addresses.get(key)
    }

    fn prefix(&self, key: &PrefixKey) -> Option<&AddressValue> {
        let bits = u128::from_be_bytes(key.address());
        let matches = |(prefix, _): &(&PrefixKey, &AddressValue)| {
            let differing = u128::from_be_bytes(prefix.address()) ^ bits;
            prefix.prefix_len() <= key.prefix_len() && differing.leading_zeros() >= prefix.prefix_len()
        };
        let best = self.prefixes.iter().filter(matches).max_by_key(|(prefix, _)| prefix.prefix_len());
        best.map(|(_, value)| value)
    }

    fn identity(&self, identity: u32) -> Option<&Bitmap> {
        self.identities.get(&identity)
    }

    fn policy(&self, key: &PolicyKey) -> Option<&PolicyValue> {
        let matches = |rule: &&PolicyKey| {
            let (rule_bits, bits) = (u64::from_be_bytes(rule.data()), u64::from_be_bytes(key.data()));
            (rule_bits ^ bits) >> (PolicyKey::EXACT - rule.prefix_len()) == 0
        };
        let best = self.rules.keys().filter(matches).max_by_key(|rule| rule.prefix_len())?;
        self.rules.get(best)
    }

    fn service(&self, key: &ServiceKey) -> Option<&ServiceValue> {
        self.services.get(key)
    }

    fn slot(&self, key: &SlotKey) -> Option<&SlotValue> {
        self.slots.get(key)
    }

    fn backend(&self, key: &BackendKey) -> Option<&BackendValue> {
        self.backends.get(key)
    }

    fn flow<R>(&self, key: &FlowKey, f: impl FnOnce(&mut FlowValue) -> R) -> Option<R> {
        self.flows.borrow_mut().get_mut(key).map(f)
    }

    fn set_flow(&self, key: &FlowKey, value: &FlowValue) -> bool {
        let mut flows = self.flows.borrow_mut();
        if self.full && !flows.contains_key(key) {
            return false;
        }
        flows.insert(*key, *value);
        true
    }

    fn pod_connections<R>(&self, key: &PodKey, f: impl FnOnce(&mut PodConnections) -> R) -> Option<R> {
        self.pod_connections.borrow_mut().get_mut(key).map(f)
    }

    fn set_pod_connections(&self, key: &PodKey, value: &PodConnections) {
        self.pod_connections.borrow_mut().insert(*key, *value);
    }

    fn snat<R>(&self, key: &FlowKey, f: impl FnOnce(&mut SnatValue) -> R) -> Option<R> {
        self.snat.borrow_mut().get_mut(key).map(f)
    }

    fn set_snat(&self, key: &FlowKey, value: &SnatValue, replace: bool) -> bool {
        let mut snat = self.snat.borrow_mut();
        let known = snat.contains_key(key);
        let refused = if known { !replace } else { self.full };
        if refused {
            return false;
        }
        snat.insert(*key, *value);
        true
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.fragments.borrow_mut().insert(*key, *value);
    }

    fn set_origin(&self, key: &SocketKey, value: &OriginValue) -> bool {
        self.origins.borrow_mut().insert(*key, *value);
        true
    }

    fn origin(&self, key: &SocketKey) -> Option<OriginValue> {
        self.origins.borrow().get(key).copied()
    }

    fn set_socket_backend(&self, key: &SocketKey, value: &SocketBackendValue) -> bool {
        self.socket_backends.borrow_mut().insert(*key, *value);
        true
    }

    fn socket_backend(&self, key: &SocketKey) -> Option<SocketBackendValue> {
        self.socket_backends.borrow().get(key).copied()
    }

    fn count(&self, _: Metric, _: u32) {}
}
