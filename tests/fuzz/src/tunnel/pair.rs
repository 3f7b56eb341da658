//! The device and its peer, and all that was ever on the wire between them.

use std::{net::SocketAddr, time::Instant};

use tombolo_tunnel_core::{Device, RxBatch, TxBatch, uapi};

/// The end that is looked at.
pub const US: usize = 0;
const PEER: usize = 1;

const PRIVATE: [&str; 2] = [
    "4810d8d1ba3f62fcd5ba80ba41b3ab5ba51fd2be3ed0a8b8b2d4ad4c2b6a6f4f",
    "1010101010101010101010101010101010101010101010101010101010101010",
];

/// Bytes of a data message that are not the packet (WireGuard paper, section 5.4.6).
const OVERHEAD: usize = 32;

/// One end.
pub struct End {
    device: Device,
    address: SocketAddr,
    /// Packets for the pods behind it.
    pub received: Vec<Vec<u8>>,
    /// Bytes put on the wire.
    sent: u64,
}

/// Two ends. Datagrams lie on the wire until they are delivered or lost; both can be seen and copied by anybody.
pub struct Pair {
    /// The device under test, and its peer.
    pub ends: [End; 2],
    keys: [String; 2],
    /// Receiver and datagram.
    wire: Vec<(usize, Vec<u8>)>,
    /// What has been on the wire.
    seen: Vec<(usize, Vec<u8>)>,
    /// Packets given to each end to send, and not yet come out at the other.
    on_the_way: [Vec<Vec<u8>>; 2],
    /// Length of the longest packet given to each end to send.
    longest: [usize; 2],
    /// Packets that pods behind our end sent to nobody.
    no_route: u64,
}

/// An IPv4 packet.
pub fn inner(from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).expect("a small packet").to_be_bytes();
    let head = [0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 253, 0, 0];
    [head.as_slice(), &from, &to, payload].concat()
}

/// Where an IP packet goes to, where its header is whole.
fn destination(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => Some(&packet[16..20]),
        6 if packet.len() >= 40 => Some(&packet[24..40]),
        _ => None,
    }
}

impl Pair {
    /// 10.1.0.0/16 is behind our end, 10.2.0.0/16 behind the peer.
    pub fn new() -> Self {
        let public = PRIVATE.map(|private| {
            let mut device = Device::new();
            device.apply(&uapi::parse_set(&format!("private_key={private}")).expect("a key"));
            device.public_key().expect("has a key").to_hex()
        });
        Self {
            ends: [US, PEER].map(|end| End::new(end, &public)),
            keys: public,
            wire: Vec::new(),
            seen: Vec::new(),
            on_the_way: [const { Vec::new() }; 2],
            longest: [0; 2],
            no_route: 0,
        }
    }

    /// Somebody who knows no key sends bytes to our end.
    pub fn strange_datagram(&mut self, datagram: &[u8]) {
        let us = &self.ends[US];
        let (sent, received, rejected) = (us.sent, us.received.len(), us.device.counters().rejected);
        self.hand_over(US, datagram);
        let us = &self.ends[US];
        assert_eq!(us.received.len(), received, "nobody encrypted this");
        let answered = us.sent - sent;
        assert!(answered <= datagram.len() as u64, "{} bytes draw {answered}", datagram.len());
        assert_eq!(us.device.counters().rejected - rejected, u64::from(answered == 0), "not counted");
    }

    /// The peer sends a packet; packets with an address that is not behind it go no further than our end.
    pub fn peer_sends(&mut self, packet: &[u8]) {
        self.on_the_way[PEER].push(packet.to_vec());
        self.send(PEER, packet);
    }

    /// A pod behind our end sends any packet.
    pub fn we_send(&mut self, packet: &[u8]) {
        let to_peer = destination(packet).is_some_and(|to| to.len() == 4 && to[..2] == [10, 2]);
        if to_peer {
            // What is behind the length in its header is no part of it.
            let len = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            self.on_the_way[US].push(packet[..len.min(packet.len())].to_vec());
        } else {
            self.no_route += 1;
        }
        let before = self.ends[US].sent;
        self.send(US, packet);
        assert!(to_peer || self.ends[US].sent == before, "a packet for nobody was sent");
    }

    /// Delivers again what has been on the wire, perhaps with one byte changed and perhaps to who sent it.
    pub fn replay(&mut self, which: u8, change: Option<(u16, u8)>) {
        let Some((to, mut datagram)) = self.seen.get(usize::from(which) % self.seen.len().max(1)).cloned()
        else {
            return;
        };
        let to = if which & 0x80 == 0 { to } else { 1 - to };
        if let Some((at, value)) = change {
            let at = usize::from(at) % datagram.len();
            datagram[at] ^= value.max(1);
        }
        let received = self.ends[to].received.len();
        self.hand_over(to, &datagram);
        let unchanged = self.ends[to].received.len() == received;
        assert!(change.is_none() || unchanged, "it was changed on the way");
    }

    /// Delivers one of the datagrams on the wire; or loses it.
    pub fn deliver(&mut self, which: u8) {
        if self.wire.is_empty() {
            return;
        }
        let (to, datagram) = self.wire.remove(usize::from(which & 0x7f) % self.wire.len());
        self.seen.push((to, datagram.clone()));
        if which & 0x80 == 0 {
            self.hand_over(to, &datagram);
        }
    }

    /// A quarter of a second is over, as far as the owner of the device can tell.
    pub fn timeout(&mut self) {
        for end in 0..2 {
            self.act(end, |device, tx, _| device.handle_timeout(Instant::now(), tx));
        }
    }

    /// Delivers until nothing is on the wire.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            self.deliver(0);
        }
        assert!(self.wire.is_empty(), "it never ends");
    }

    /// The peer has forgotten everything but its configuration.
    pub fn peer_starts_again(&mut self) {
        self.ends[PEER] = End::new(PEER, &self.keys);
        // Limits of handshakes are per second.
        self.timeout();
        self.settle();
    }

    /// What must hold at all times.
    pub fn check(&self) {
        let end = &self.ends[US];
        assert_eq!(end.device.counters().no_route, self.no_route, "packets for nobody");
        let peer = end.device.peers().next().expect("the peer is configured");
        assert_eq!(peer.tx_bytes, end.sent, "bytes sent");
    }

    fn send(&mut self, end: usize, packet: &[u8]) {
        self.longest[end] = self.longest[end].max(packet.len());
        self.act(end, |device, tx, _| device.handle_ip_packet(packet, Instant::now(), tx));
    }

    fn hand_over(&mut self, end: usize, datagram: &[u8]) {
        let from = self.ends[1 - end].address;
        self.act(end, |device, tx, rx| device.handle_datagram(from, datagram, Instant::now(), tx, rx));
    }

    fn act(&mut self, end: usize, act: impl FnOnce(&mut Device, &mut TxBatch, &mut RxBatch)) {
        let (mut tx, mut rx) = (TxBatch::new(1 << 18), RxBatch::new(1 << 17));
        act(&mut self.ends[end].device, &mut tx, &mut rx);
        for (to, datagram) in tx.datagrams() {
            assert_eq!(to, self.ends[1 - end].address, "sent to a stranger");
            self.ends[end].sent += datagram.len() as u64;
            let longest = self.longest[end];
            assert!(datagram.len() <= (longest + OVERHEAD).max(148), "larger than what it carries");
            self.wire.push((1 - end, datagram.to_vec()));
        }
        for index in 0..rx.len() {
            let packet = rx.packet(index).to_vec();
            let waiting = &mut self.on_the_way[1 - end];
            let known = waiting.iter().position(|sent| *sent == packet);
            waiting.remove(known.expect("a packet that nobody sent, or one for the second time"));
            let sender = [10, if end == US { 2 } else { 1 }];
            // A header that says less than its own length leaves nothing to look at.
            let is_behind = packet.get(12..14).is_none_or(|start| start == sender);
            assert!(is_behind, "a packet with an address that is not behind its sender");
            self.ends[end].received.push(packet);
        }
    }
}

impl End {
    fn new(end: usize, public: &[String; 2]) -> Self {
        let address = |end: usize| format!("127.0.0.{}:51871", end + 1);
        let (private, peer, other) = (PRIVATE[end], &public[1 - end], address(1 - end));
        let setup = format!(
            "private_key={private}\npublic_key={peer}\nendpoint={other}\nallowed_ip=10.{}.0.0/16\n",
            2 - end
        );
        let mut device = Device::new();
        device.apply(&uapi::parse_set(&setup).expect("a good configuration"));
        let address = address(end).parse().expect("an address");
        Self { device, address, received: Vec::new(), sent: 0 }
    }
}
