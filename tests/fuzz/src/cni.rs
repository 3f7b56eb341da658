//! What containerd gives to the plugin, and what the plugin gives to the agent.

use tombolo_cni::{config::Config, protocol};

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    if let Ok(config) = Config::parse(bytes) {
        let _ = (config.refuse_unknown(), config.previous_addresses("eth0"));
    }
    if let Some((header, body)) = bytes.split_first_chunk::<4>()
        && protocol::body_length(*header).is_ok()
    {
        let _ = protocol::decode::<protocol::Request>(body);
        let _ = protocol::decode::<protocol::Response>(body);
    }
}
