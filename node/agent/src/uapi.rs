//! Client of the WireGuard configuration protocol (<https://www.wireguard.com/xplatform/>): text over a unix socket.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, BufRead, BufReader, Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use tombolo_model::{Address, Prefix};
use tombolo_node_core::tunnel::{PublicKey, TunnelPeer};

/// How long the tunnel may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of an answer: some thousand peers with their prefixes.
const MAX_ANSWER: u64 = 16 << 20;

/// A tunnel process by its socket; each request is a connection of its own.
#[derive(Clone, Debug)]
pub struct Uapi {
    socket: PathBuf,
}

/// A private key; it shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub(crate) [u8; 32]);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

/// What a tunnel has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelState {
    /// Its private key, if it has been given one.
    pub private_key: Option<PrivateKey>,
    /// The UDP port it listens on.
    pub listen_port: u16,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, TunnelPeer>,
    /// What is measured of them.
    pub statistics: BTreeMap<PublicKey, PeerStatistics>,
}

/// What a tunnel measures of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerStatistics {
    /// When the last handshake was, seconds of Unix time; 0 for never.
    pub last_handshake: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

/// Why the tunnel did not do something.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// The process is down, or does not answer.
    #[error("tombolo-tunnel cannot be asked at {path:?}: {source}")]
    Io {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It refused.
    #[error("tombolo-tunnel refused the configuration with error {0}")]
    Refused(i32),
    /// It answered something else.
    #[error("tombolo-tunnel answered {0:?}, which is not understood")]
    Garbled(String),
}

impl Uapi {
    /// The tunnel that listens at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// What it has.
    pub fn get(&self) -> Result<TunnelState, UapiError> {
        parse(&self.exchange("get=1\n\n")?)
    }

    /// Gives it its key and port; peers stay.
    pub fn set_interface(&self, key: &PrivateKey, listen_port: u16) -> Result<(), UapiError> {
        self.set(&format!("private_key={}\nlisten_port={listen_port}\n", hex(&key.0)))
    }

    /// Makes a peer, or changes the one with this key. An endpoint is set only when `endpoint` says so, because a
    /// peer that has moved is found by the tunnel itself.
    pub fn set_peer(&self, key: &PublicKey, peer: &TunnelPeer, endpoint: bool) -> Result<(), UapiError> {
        let mut text = format!("public_key={}\n", hex(key));
        if endpoint {
            let address = SocketAddr::new(peer.endpoint.0.to_ip(), peer.endpoint.1);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "endpoint={address}");
        }
        text.push_str("replace_allowed_ips=true\n");
        for prefix in &peer.allowed_ips {
            let _ = writeln!(text, "allowed_ip={prefix}");
        }
        self.set(&text)
    }

    /// Removes a peer; one that does not exist is no error.
    pub fn remove_peer(&self, key: &PublicKey) -> Result<(), UapiError> {
        self.set(&format!("public_key={}\nremove=true\n", hex(key)))
    }

    fn set(&self, text: &str) -> Result<(), UapiError> {
        parse(&self.exchange(&format!("set=1\n{text}\n"))?).map(drop)
    }

    fn exchange(&self, request: &str) -> Result<Vec<String>, UapiError> {
        self.lines(request).map_err(|source| UapiError::Io { path: self.socket.clone(), source })
    }

    fn lines(&self, request: &str) -> io::Result<Vec<String>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes())?;
        let mut lines = Vec::new();
        for line in BufReader::new(stream.take(MAX_ANSWER)).lines() {
            let line = line?;
            if line.is_empty() {
                return Ok(lines);
            }
            lines.push(line);
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer has no end"))
    }
}

fn parse(lines: &[String]) -> Result<TunnelState, UapiError> {
    let mut state = TunnelState::default();
    let mut errno = None;
    let mut peer: Option<PublicKey> = None;
    for line in lines {
        // A private key never gets into an error message, and so not into a log.
        let garbled = || match line.split_once('=') {
            Some((key @ ("private_key" | "preshared_key"), _)) => UapiError::Garbled(format!("{key}=…")),
            _ => UapiError::Garbled(line.clone()),
        };
        let (key, value) = line.split_once('=').ok_or_else(garbled)?;
        match key {
            "errno" => errno = Some(value.parse::<i32>().map_err(|_| garbled())?),
            "private_key" => state.private_key = Some(PrivateKey(unhex(value).ok_or_else(garbled)?)),
            "listen_port" => state.listen_port = value.parse().map_err(|_| garbled())?,
            "public_key" => {
                let public = unhex(value).ok_or_else(garbled)?;
                let unknown = (Address::from_octets([0; 16]), 0);
                state.peers.insert(public, TunnelPeer { endpoint: unknown, allowed_ips: BTreeSet::new() });
                state.statistics.insert(public, PeerStatistics::default());
                peer = Some(public);
            }
            _ => {
                if let Some(public) = &peer {
                    parse_peer(&mut state, public, key, value).ok_or_else(garbled)?;
                }
            }
        }
    }
    match errno {
        Some(0) => Ok(state),
        Some(errno) => Err(UapiError::Refused(errno)),
        None => Err(UapiError::Garbled("an answer without errno".into())),
    }
}

/// None for a value that makes no sense; keys that mean nothing here are passed over.
fn parse_peer(state: &mut TunnelState, public: &PublicKey, key: &str, value: &str) -> Option<()> {
    let (peer, statistics) = (state.peers.get_mut(public)?, state.statistics.get_mut(public)?);
    match key {
        "endpoint" => {
            let address: SocketAddr = value.parse().ok()?;
            peer.endpoint = (address.ip().into(), address.port());
        }
        "allowed_ip" => {
            peer.allowed_ips.insert(value.parse::<Prefix>().ok()?);
        }
        "last_handshake_time_sec" => statistics.last_handshake = value.parse().ok()?,
        "rx_bytes" => statistics.received = value.parse().ok()?,
        "tx_bytes" => statistics.sent = value.parse().ok()?,
        _ => {}
    }
    Some(())
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The 32 bytes of 64 hexadecimal digits.
pub fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(at..at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_answer_is_read() {
        let (a, b) = ("01".repeat(32), "ab".repeat(32));
        let state = parse(&lines(&format!(
            "private_key={a}\nlisten_port=51871\npublic_key={b}\nendpoint=192.0.2.1:51871\n\
             last_handshake_time_sec=5\nrx_bytes=7\ntx_bytes=9\nallowed_ip=10.2.0.0/24\nprotocol_version=1\nerrno=0"
        )))
        .unwrap();
        let peer = &state.peers[&[0xab; 32]];
        assert_eq!(peer.endpoint, ("192.0.2.1".parse().unwrap(), 51871));
        assert_eq!(peer.allowed_ips, BTreeSet::from(["10.2.0.0/24".parse().unwrap()]));
        assert_eq!(state.statistics[&[0xab; 32]], PeerStatistics { last_handshake: 5, received: 7, sent: 9 });
        assert_eq!(format!("{:?}", state.private_key), "Some(PrivateKey(…))");
    }

    #[test]
    fn refusals_and_nonsense_are_errors() {
        assert!(matches!(parse(&lines("errno=22")), Err(UapiError::Refused(22))));
        assert!(matches!(parse(&lines("listen_port=x\nerrno=0")), Err(UapiError::Garbled(_))));
        assert!(matches!(parse(&[]), Err(UapiError::Garbled(_))));
        let error = parse(&lines("private_key=secret\nerrno=0")).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(text in "(((public_key|endpoint|allowed_ip|errno|rx_bytes)=)?[ -~é]{0,70}\n){0,8}") {
            let _ = parse(&lines(&text));
        }

        #[test]
        fn keys_round_trip(key: [u8; 32]) {
            prop_assert_eq!(unhex(&hex(&key)), Some(key));
        }
    }
}
