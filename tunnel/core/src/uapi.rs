//! The cross-platform configuration protocol of WireGuard (<https://www.wireguard.com/xplatform/>), as text.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use crate::device::Device;
use crate::key::{KeyError, PublicKey, SecretKey};

/// Peers that one request may name; as many as the Linux implementation allows a device to have.
pub const MAX_PEERS: usize = 1 << 16;

/// Why a `set=1` request is refused. Nothing of it has been applied.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParseError {
    /// Not `key=value`.
    #[error("line {line} is not key=value")]
    NotAPair {
        /// Counted from 1.
        line: usize,
    },
    /// A key that the protocol does not have, or that is not allowed there.
    #[error("line {line}: key {key:?} is not known here")]
    UnknownKey {
        /// Counted from 1.
        line: usize,
        /// As given.
        key: String,
    },
    /// A value that its key does not take. The value is left out: it may be a secret.
    #[error("line {line}: {key} does not take this value: {reason}")]
    BadValue {
        /// Counted from 1.
        line: usize,
        /// As given.
        key: String,
        /// What the key takes.
        reason: &'static str,
    },
    /// More peers than a device can have.
    #[error("more than {MAX_PEERS} peers in one request")]
    TooManyPeers,
}

/// Parses the lines that follow `set=1`, without the empty line that ends the request.
pub fn parse_set(text: &str) -> Result<DeviceUpdate, ParseError> {
    let mut update = DeviceUpdate::default();
    for (line, entry) in (1..).zip(text.lines()) {
        let (key, value) = entry.split_once('=').ok_or(ParseError::NotAPair { line })?;
        let bad = |reason| ParseError::BadValue { line, key: key.to_owned(), reason };
        if key == "public_key" {
            if update.peers.len() == MAX_PEERS {
                return Err(ParseError::TooManyPeers);
            }
            update.peers.push(PeerUpdate::new(PublicKey::from_hex(value).map_err(|_| bad(KEY))?));
            continue;
        }
        let known = match update.peers.last_mut() {
            Some(peer) => peer_key(peer, key, value),
            None => device_key(&mut update, key, value),
        };
        if !known.map_err(bad)? {
            return Err(ParseError::UnknownKey { line, key: key.to_owned() });
        }
    }
    Ok(update)
}

const KEY: &str = "64 hexadecimal digits";
const TRUE: &str = "only true";

impl From<KeyError> for &'static str {
    fn from(_: KeyError) -> Self {
        KEY
    }
}

fn device_key(update: &mut DeviceUpdate, key: &str, value: &str) -> Result<bool, &'static str> {
    match key {
        "private_key" => update.private_key = Some(SecretKey::from_hex(value)?),
        "listen_port" => update.listen_port = Some(value.parse().map_err(|_| "0 to 65535")?),
        "fwmark" => update.fwmark = Some(value.parse().map_err(|_| "0 to 4294967295")?),
        "replace_peers" => update.replace_peers = only_true(value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn peer_key(peer: &mut PeerUpdate, key: &str, value: &str) -> Result<bool, &'static str> {
    match key {
        "remove" => peer.remove = only_true(value)?,
        "update_only" => peer.update_only = only_true(value)?,
        "preshared_key" => peer.preshared_key = Some(SecretKey::from_hex(value)?),
        "endpoint" => {
            peer.endpoint = Some(value.parse().map_err(|_| "address:port, IPv6 addresses in brackets")?);
        }
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive = Some(value.parse().map_err(|_| "0 to 65535 seconds")?);
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = only_true(value)?,
        "allowed_ip" => {
            let bare = value.strip_prefix('-').unwrap_or(value);
            let prefix = bare.parse().map_err(|_| "address/length, with - before it to remove")?;
            peer.allowed_ips.push(AllowedIpUpdate { prefix, remove: bare.len() < value.len() });
        }
        "protocol_version" if value == "1" => {}
        "protocol_version" => return Err("only 1"),
        _ => return Ok(false),
    }
    Ok(true)
}

fn only_true(value: &str) -> Result<bool, &'static str> {
    if value == "true" { Ok(true) } else { Err(TRUE) }
}

/// The reply to `get=1`, up to but not including `errno=`. `now` and `since_epoch` are the same moment on the
/// monotonic and on the wall clock. The text holds the private key.
pub fn format_get(device: &Device, now: Instant, since_epoch: Duration) -> String {
    let mut out = String::with_capacity(4096);
    if let Some(key) = device.private_key() {
        line(&mut out, "private_key", key.to_hex());
    }
    if device.listen_port() != 0 {
        line(&mut out, "listen_port", device.listen_port());
    }
    if device.fwmark() != 0 {
        line(&mut out, "fwmark", device.fwmark());
    }
    for peer in device.peers() {
        line(&mut out, "public_key", peer.public_key.to_hex());
        let preshared = peer.preshared_key.map_or_else(|| "0".repeat(64), SecretKey::to_hex);
        line(&mut out, "preshared_key", preshared);
        line(&mut out, "protocol_version", 1);
        if let Some(endpoint) = peer.endpoint {
            line(&mut out, "endpoint", endpoint);
        }
        let age = peer.last_handshake.map(|at| now.saturating_duration_since(at));
        let at = age.map_or(Duration::ZERO, |age| since_epoch.saturating_sub(age));
        line(&mut out, "last_handshake_time_sec", at.as_secs());
        line(&mut out, "last_handshake_time_nsec", at.subsec_nanos());
        line(&mut out, "tx_bytes", peer.tx_bytes);
        line(&mut out, "rx_bytes", peer.rx_bytes);
        line(&mut out, "persistent_keepalive_interval", peer.persistent_keepalive);
        for prefix in peer.allowed_ips {
            line(&mut out, "allowed_ip", prefix);
        }
    }
    out
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{key}={value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> String {
        let key = "ab".repeat(32);
        format!(
            "private_key={}\nlisten_port=51871\nfwmark=7\nreplace_peers=true\npublic_key={key}\n\
             preshared_key={}\nendpoint=[2001:db8::1]:7\npersistent_keepalive_interval=25\n\
             replace_allowed_ips=true\nallowed_ip=10.0.0.1/24\nallowed_ip=fd00::/64\nprotocol_version=1\n",
            "01".repeat(32),
            "02".repeat(32)
        )
    }

    #[test]
    fn what_is_set_is_what_get_shows() {
        let mut device = Device::new();
        device.apply(&parse_set(&request()).unwrap());
        let shown = format_get(&device, Instant::now(), Duration::ZERO);
        let set: Vec<String> = request()
            .lines()
            .filter(|l| !l.starts_with("replace"))
            .map(|l| l.replace("10.0.0.1/24", "10.0.0.0/24"))
            .collect();
        for wanted in set {
            assert!(shown.lines().any(|l| l == wanted), "{wanted} is missing in\n{shown}");
        }
    }

    #[test]
    fn a_prefix_moves_between_peers_and_can_be_taken_away() {
        let mut device = Device::new();
        let (a, b) = ("0a".repeat(32), "0b".repeat(32));
        let mut set = |text: String| {
            device.apply(&parse_set(&text).unwrap());
            device
                .peers()
                .map(|p| p.allowed_ips.iter().map(ToString::to_string).collect())
                .collect::<Vec<Vec<_>>>()
        };
        assert_eq!(
            set(format!("public_key={a}\nallowed_ip=10.0.0.0/8\npublic_key={b}")),
            [vec!["10.0.0.0/8"], vec![]]
        );
        assert_eq!(set(format!("public_key={b}\nallowed_ip=10.0.0.0/8")), [vec![], vec!["10.0.0.0/8"]]);
        // Taking away what another peer owns changes nothing.
        assert_eq!(set(format!("public_key={a}\nallowed_ip=-10.0.0.0/8")), [vec![], vec!["10.0.0.0/8"]]);
        assert_eq!(set(format!("public_key={b}\nallowed_ip=-10.0.0.0/8")), [vec![], vec![] as Vec<&str>]);
        assert_eq!(set(format!("public_key={b}\nremove=true")).len(), 1);
        assert_eq!(set(format!("public_key={b}\nupdate_only=true\nallowed_ip=1.0.0.0/8")).len(), 1);
    }

    #[test]
    fn errors_name_the_key_but_never_the_secret() {
        let error = parse_set("private_key=12345").unwrap_err().to_string();
        assert_eq!(error, "line 1: private_key does not take this value: 64 hexadecimal digits");
        let unknown = ParseError::UnknownKey { line: 1, key: "endpoint".into() };
        assert_eq!(parse_set("endpoint=1.2.3.4:5").unwrap_err(), unknown);
        assert_eq!(parse_set("x").unwrap_err(), ParseError::NotAPair { line: 1 });
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[a-z_=0-9:/.\n-]{0,200}|\\PC*") {
            let _ = parse_set(&text);
        }

        #[test]
        fn one_changed_byte_is_parsed_or_refused(at in 0usize..400, byte in 32u8..127) {
            let mut text = request().into_bytes();
            let at = at % text.len();
            text[at] = byte;
            if let Ok(update) = parse_set(&String::from_utf8(text).unwrap()) {
                Device::new().apply(&update);
            }
        }
    }
}
