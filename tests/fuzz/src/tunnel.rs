//! Datagrams from the network, packets from pods, and the configuration protocol of the tunnel: what comes out for pods
//! was encrypted by the peer and comes out once, and whoever knows no key can neither get more bytes out than it puts in
//! nor keep the peer from a new session.

mod pair;

use std::time::{Duration, Instant};

use tombolo_tunnel_core::{Device, uapi};

use crate::input::Input;
use pair::{Pair, US, inner};

/// What may happen to the pair in one run; a handshake takes half a millisecond.
const STEPS: u8 = 24;

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    configure(bytes);
    let mut input = Input::new(bytes);
    let mut pair = Pair::new();
    for step in 0..STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0 => {
                let len = input.number().into();
                let garbage = input.bytes(len).to_vec();
                pair.strange_datagram(&garbage);
            }
            1 => {
                let (from, len) = (input.byte(), input.byte().into());
                let packet = inner([10, 1 + from % 3, 0, step], [10, 1, 0, 1], input.bytes(len));
                pair.peer_sends(&packet);
            }
            2 => {
                let (to, len) = (input.byte(), input.byte().into());
                let packet = inner([10, 1, 0, step], [10, to % 4, 0, 7], input.bytes(len));
                pair.we_send(&packet);
            }
            3 => {
                let len = input.number().into();
                let packet = input.bytes(len).to_vec();
                pair.we_send(&packet);
            }
            4 => pair.replay(input.byte(), None),
            5 => {
                let (which, at, value) = (input.byte(), input.number(), input.byte());
                pair.replay(which, Some((at, value)));
            }
            6 => pair.deliver(input.byte()),
            _ => pair.timeout(),
        }
        pair.check();
    }
    pair.settle();
    pair.peer_starts_again();
    let packet = inner([10, 2, 1, 1], [10, 1, 0, 1], b"after all that");
    pair.peer_sends(&packet);
    pair.settle();
    assert_eq!(pair.ends[US].received.last(), Some(&packet), "a good handshake and a good packet");
    pair.check();
}

/// Any request to the configuration protocol: what is accepted is what the device then says, and gives another device the
/// same configuration.
fn configure(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(update) = uapi::parse_set(text) else { return };
    let mut device = Device::new();
    device.apply(&update);
    let now = Instant::now();
    let said = uapi::format_get(&device, now, Duration::ZERO);
    let figures = ["last_handshake_time", "tx_bytes", "rx_bytes"];
    let settings: Vec<&str> =
        said.lines().filter(|line| !figures.iter().any(|key| line.starts_with(key))).collect();
    let again = uapi::parse_set(&settings.join("\n")).expect("the device takes what it says");
    let mut other = Device::new();
    other.apply(&again);
    assert_eq!(uapi::format_get(&other, now, Duration::ZERO), said);
}
