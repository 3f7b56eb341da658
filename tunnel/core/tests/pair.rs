//! Two devices joined in memory.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::net::SocketAddr;
use std::time::Instant;

use boringtun::x25519;
use proptest::prelude::*;
use tombolo_tunnel_core::{Device, RxBatch, TxBatch, uapi};

struct End {
    device: Device,
    address: SocketAddr,
    received: Vec<Vec<u8>>,
    sent: Vec<(SocketAddr, Vec<u8>)>,
}

struct Pair {
    ends: [End; 2],
    keys: [String; 2],
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn public(secret: [u8; 32]) -> String {
    hex(x25519::PublicKey::from(&x25519::StaticSecret::from(secret)).as_bytes())
}

impl End {
    fn set(&mut self, text: &str) {
        self.device.apply(&uapi::parse_set(text).unwrap());
    }

    fn send(&mut self, packet: &[u8]) {
        let mut tx = TxBatch::new(200_000);
        self.device.handle_ip_packet(packet, Instant::now(), &mut tx);
        self.sent.extend(tx.datagrams().map(|(to, d)| (to, d.to_vec())));
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let (mut tx, mut rx) = (TxBatch::new(200_000), RxBatch::new(200_000));
        self.device.handle_datagram(from, datagram, Instant::now(), &mut tx, &mut rx);
        self.sent.extend(tx.datagrams().map(|(to, d)| (to, d.to_vec())));
        self.received.extend((0..rx.len()).map(|i| rx.packet(i).to_vec()));
    }
}

impl Pair {
    /// 10.0.0.1 behind the first end, 10.0.0.2 behind the second.
    fn new() -> Self {
        let secrets = [[0x11; 32], [0x22; 32]];
        let keys = secrets.map(public);
        let ends = [0, 1].map(|i| {
            let mut end = End {
                device: Device::new(),
                address: format!("192.0.2.{}:51871", i + 1).parse().unwrap(),
                received: Vec::new(),
                sent: Vec::new(),
            };
            end.set(&format!(
                "private_key={}\npublic_key={}\nendpoint=192.0.2.{}:51871\nallowed_ip=10.0.0.{}/32",
                hex(&secrets[i]),
                keys[1 - i],
                2 - i,
                2 - i
            ));
            end
        });
        Self { ends, keys }
    }

    /// Carries datagrams both ways until none is left.
    fn settle(&mut self) {
        for _ in 0..20 {
            for i in 0..2 {
                let from = self.ends[i].address;
                for (to, datagram) in std::mem::take(&mut self.ends[i].sent) {
                    if to == self.ends[1 - i].address {
                        self.ends[1 - i].receive(from, &datagram);
                    }
                }
            }
        }
    }
}

fn packet(from: u8, to: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0u8; len];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet[12..20].copy_from_slice(&[10, 0, 0, from, 10, 0, 0, to]);
    packet
}

#[test]
fn data_crosses_both_ways_after_one_handshake() {
    let mut pair = Pair::new();
    // The first packets wait for the session and are not lost.
    pair.ends[0].send(&packet(1, 2, 100));
    pair.ends[0].send(&packet(1, 2, 1400));
    pair.settle();
    assert_eq!(pair.ends[1].received, [packet(1, 2, 100), packet(1, 2, 1400)]);
    pair.ends[1].send(&packet(2, 1, 60));
    assert_eq!(pair.ends[1].sent[0].1[0], 4, "data at once, no second handshake");
    pair.settle();
    assert_eq!(pair.ends[0].received, [packet(2, 1, 60)]);
    for end in &pair.ends {
        let peer = end.device.peers().next().unwrap();
        assert!(peer.last_handshake.is_some() && peer.rx_bytes > 0 && peer.tx_bytes > 0);
    }
}

#[test]
fn a_wrong_inner_source_is_dropped_and_counted() {
    let mut pair = Pair::new();
    pair.ends[0].send(&packet(9, 2, 100));
    pair.settle();
    assert!(pair.ends[1].received.is_empty());
    assert_eq!(pair.ends[1].device.counters().wrong_source, 1);
    pair.ends[0].send(&packet(1, 7, 100));
    assert_eq!(pair.ends[0].device.counters().no_route, 1);
}

#[test]
fn a_peer_does_not_speak_for_another_one() {
    let mut pair = Pair::new();
    let third = public([0x33; 32]);
    pair.ends[1].set(&format!("public_key={third}\nallowed_ip=10.0.0.9/32"));
    pair.ends[0].send(&packet(9, 2, 100));
    pair.settle();
    assert!(pair.ends[1].received.is_empty());
    assert_eq!(pair.ends[1].device.counters().wrong_source, 1);
}

#[test]
fn a_replayed_datagram_is_refused() {
    let mut pair = Pair::new();
    pair.ends[0].send(&packet(1, 2, 100));
    pair.settle();
    pair.ends[0].send(&packet(1, 2, 100));
    let (_, datagram) = pair.ends[0].sent[0].clone();
    pair.settle();
    let from = pair.ends[0].address;
    pair.ends[1].receive(from, &datagram);
    assert_eq!(pair.ends[1].received.len(), 2);
    assert_eq!(pair.ends[1].device.counters().rejected, 1);
}

#[test]
fn an_endpoint_follows_authenticated_packets_only() {
    let mut pair = Pair::new();
    pair.ends[0].send(&packet(1, 2, 100));
    pair.settle();
    let endpoint = |pair: &Pair| pair.ends[1].device.peers().next().unwrap().endpoint.unwrap();
    pair.ends[1].receive("203.0.113.5:5".parse().unwrap(), &[4; 80]);
    assert_eq!(endpoint(&pair), "192.0.2.1:51871".parse().unwrap());
    pair.ends[0].address = "198.51.100.7:999".parse().unwrap();
    pair.ends[0].send(&packet(1, 2, 100));
    pair.settle();
    assert_eq!(endpoint(&pair), "198.51.100.7:999".parse().unwrap());
    pair.ends[1].send(&packet(2, 1, 100));
    pair.settle();
    assert_eq!(pair.ends[0].received.len(), 1);
}

#[test]
fn a_new_key_needs_the_peer_to_know_it() {
    let mut pair = Pair::new();
    pair.ends[0].send(&packet(1, 2, 100));
    pair.settle();
    pair.ends[0].set(&format!("private_key={}", hex(&[0x33; 32])));
    pair.ends[0].send(&packet(1, 2, 100));
    pair.settle();
    assert_eq!(pair.ends[1].received.len(), 1);
    let (old, new) = (pair.keys[0].clone(), public([0x33; 32]));
    pair.ends[1].set(&format!(
        "public_key={old}\nremove=true\npublic_key={new}\nendpoint=192.0.2.1:51871\nallowed_ip=10.0.0.1/32"
    ));
    pair.ends[1].send(&packet(2, 1, 100));
    pair.settle();
    assert_eq!(pair.ends[0].received, [packet(2, 1, 100)]);
}

#[test]
fn preshared_keys_must_agree_and_an_unchanged_one_keeps_the_session() {
    let mut pair = Pair::new();
    let psk =
        |pair: &Pair, i: usize| format!("public_key={}\npreshared_key={}", pair.keys[1 - i], hex(&[5; 32]));
    let (first, second) = (psk(&pair, 0), psk(&pair, 1));
    pair.ends[0].set(&first);
    pair.ends[0].send(&packet(1, 2, 100));
    pair.settle();
    assert!(pair.ends[1].received.is_empty());
    pair.ends[1].set(&second);
    pair.ends[0].set(&format!("public_key={}\nremove=true", pair.keys[1]));
    pair.ends[0].set(&format!("{first}\nendpoint=192.0.2.2:51871\nallowed_ip=10.0.0.2/32"));
    // A second initiation within the same tick would look like a replay to the other side.
    std::thread::sleep(std::time::Duration::from_millis(60));
    pair.ends[0].send(&packet(1, 2, 100));
    pair.settle();
    assert_eq!(pair.ends[1].received.len(), 1);
    pair.ends[1].set(&second);
    pair.ends[1].send(&packet(2, 1, 100));
    assert_eq!(pair.ends[1].sent[0].1[0], 4, "data at once, no new handshake");
}

#[test]
fn under_load_an_initiator_must_prove_its_address() {
    let mut pair = Pair::new();
    pair.ends[0].send(&packet(1, 2, 100));
    let (_, initiation) = pair.ends[0].sent.remove(0);
    for _ in 0..300 {
        pair.ends[1].receive("203.0.113.5:5".parse().unwrap(), &initiation);
    }
    let (to, cookie) = pair.ends[1].sent.last().unwrap();
    assert_eq!((to.to_string().as_str(), cookie[0], cookie.len()), ("203.0.113.5:5", 3, 64));
}

proptest! {
    #[test]
    fn hostile_datagrams_never_panic(kind in 0u8..6, mut bytes in prop::collection::vec(any::<u8>(), 0..300), index in 0u8..4) {
        let mut pair = Pair::new();
        pair.ends[0].send(&packet(1, 2, 100));
        pair.settle();
        if bytes.len() > 12 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
            bytes[4..12].copy_from_slice(&[index, 0, 0, 0, index, 0, 0, 0]);
        }
        match kind { 1 => bytes.resize(148, 1), 2 => bytes.resize(92, 1), 3 => bytes.resize(64, 1), _ => {} }
        let from = pair.ends[0].address;
        pair.ends[1].receive(from, &bytes);
        pair.ends[1].send(&bytes);
        let got = pair.ends[1].received.len();
        prop_assert_eq!(got, 1);
    }
}
