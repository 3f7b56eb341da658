//! Datagrams from the network, packets from pods, and the configuration protocol of the tunnel.

use std::time::Instant;

use tombolo_tunnel_core::{Device, RxBatch, TxBatch, uapi};

const SETUP: &str = "private_key=4810d8d1ba3f62fcd5ba80ba41b3ab5ba51fd2be3ed0a8b8b2d4ad4c2b6a6f4f\nlisten_port=51871\n\
    public_key=2fe57da347cd62431528daac5fbb290730fff684afc4cfc2ed90995f58cb3b74\nallowed_ip=10.2.0.0/16\n\
    endpoint=127.0.0.1:51872\n";

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    let now = Instant::now();
    let (mut tx, mut rx) = (TxBatch::new(1 << 17), RxBatch::new(1 << 17));
    let mut device = Device::new();
    device.apply(&uapi::parse_set(SETUP).expect("a good configuration"));
    let from = ([127, 0, 0, 1], 51872).into();
    device.handle_datagram(from, bytes, now, &mut tx, &mut rx);
    assert!(rx.is_empty(), "nobody has the keys for this");
    device.handle_ip_packet(bytes, now, &mut tx);
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(update) = uapi::parse_set(text)
    {
        device.apply(&update);
        device.handle_timeout(now, &mut tx);
        uapi::format_get(&device, now, std::time::Duration::ZERO);
    }
}
