//! The one-time token with which a cluster joins.
//!
//! `tombolo1.<payload>.<checksum>`: base64url without padding (RFC 4648, section 5) of a protobuf message, and the
//! first 4 bytes of its SHA-256 in hex, so that a token cut short on its way is told from a wrong one.

use std::{fmt, net::SocketAddr, str::FromStr};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;
use sha2::{Digest, Sha256};
use tombolo_model::ClusterName;

use crate::membership::{Admission, MeshId, TokenId};

const FAMILY: &str = "tombolo";
const VERSION: &str = "1";
/// Hex digits of the checksum.
const CHECKSUM_LEN: usize = 8;
/// The longest token that is looked at; a real one has a few hundred characters.
const MAX_LEN: usize = 8 * 1024;
const MAX_ENDPOINTS: usize = 16;

/// What a token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// The mesh it opens.
    pub mesh: MeshId,
    /// Its id.
    pub id: TokenId,
    /// What proves that its holder got it from a member.
    pub secret: Secret,
    /// Where the member that made it answers.
    pub endpoints: Vec<SocketAddr>,
    /// The pin of that member's CA ([`Pin`](crate::trust::Pin)).
    pub ca_pin: [u8; 32],
    /// The cluster that made it.
    pub issuer: ClusterName,
    /// When it ends, seconds since 1970 (UTC).
    pub expires: u64,
}

/// 32 random bytes that are never printed except within the token itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be sent to the member that made the token.
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the mesh remembers of it.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A text that is no usable token.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("this is no tombolo token: it must begin with `tombolo1.`")]
    NotAToken,
    /// Made by another version.
    #[error(
        "the token has format version {0}, this program knows version 1: use the same release on both sides"
    )]
    UnknownVersion(String),
    /// The end is missing.
    #[error("the token is cut short: copy the whole line that `tombolo token create` printed")]
    CutShort,
    /// Something in it changed.
    #[error("the token is damaged: copy the whole line that `tombolo token create` printed")]
    Damaged,
    /// The checksum fits, the content does not.
    #[error("the token's {0} is missing or out of range: create a new one with `tombolo token create`")]
    Field(&'static str),
    /// Its time is over.
    #[error(
        "the token expired {}: it ended at {} and the clock here says {}; create a new one with `tombolo token create`, or set the clock",
        Ago(.now.saturating_sub(*.expires)), Utc(*.expires), Utc(*.now)
    )]
    Expired {
        /// When it ended, seconds since 1970 (UTC).
        expires: u64,
        /// The clock here.
        now: u64,
    },
}

impl Token {
    /// Whether it is still good, by the clock here.
    pub fn check_time(&self, now: u64) -> Result<(), TokenError> {
        if self.expires <= now { Err(TokenError::Expired { expires: self.expires, now }) } else { Ok(()) }
    }

    /// What the joining cluster's admission is proposed with.
    pub fn admission(&self) -> Admission {
        Admission { mesh: self.mesh, token: self.id, secret_hash: self.secret.hash() }
    }

    /// The text to hand over. It holds the secret.
    pub fn reveal(&self) -> String {
        let message = TokenMessage {
            mesh: self.mesh.0.to_be_bytes().to_vec(),
            id: self.id.0,
            secret: self.secret.0.to_vec(),
            endpoints: self.endpoints.iter().map(ToString::to_string).collect(),
            ca_pin: self.ca_pin.to_vec(),
            issuer: self.issuer.as_str().to_owned(),
            expires: self.expires,
        };
        let payload = URL_SAFE_NO_PAD.encode(message.encode_to_vec());
        format!("{FAMILY}{VERSION}.{payload}.{}", checksum(&payload))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > MAX_LEN {
            return Err(TokenError::Damaged);
        }
        let rest = text.strip_prefix(FAMILY).ok_or(TokenError::NotAToken)?;
        let (version, rest) = rest.split_once('.').ok_or(TokenError::CutShort)?;
        if version != VERSION {
            return Err(TokenError::UnknownVersion(version.chars().take(8).collect()));
        }
        let (payload, sum) = rest.split_once('.').ok_or(TokenError::CutShort)?;
        let expected = checksum(payload);
        if sum != expected {
            return Err(if expected.starts_with(sum) { TokenError::CutShort } else { TokenError::Damaged });
        }
        let bytes = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Damaged)?;
        TokenMessage::decode(bytes.as_slice()).map_err(|_| TokenError::Damaged)?.try_into()
    }
}

fn checksum(payload: &str) -> String {
    use fmt::Write;
    let digest: [u8; 32] = Sha256::digest(payload).into();
    digest.iter().take(CHECKSUM_LEN / 2).fold(String::new(), |mut hex, byte| {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[derive(Clone, PartialEq, Message)]
struct TokenMessage {
    #[prost(bytes = "vec", tag = "1")]
    mesh: Vec<u8>,
    #[prost(fixed64, tag = "2")]
    id: u64,
    #[prost(bytes = "vec", tag = "3")]
    secret: Vec<u8>,
    #[prost(string, repeated, tag = "4")]
    endpoints: Vec<String>,
    #[prost(bytes = "vec", tag = "5")]
    ca_pin: Vec<u8>,
    #[prost(string, tag = "6")]
    issuer: String,
    #[prost(uint64, tag = "7")]
    expires: u64,
}

impl TryFrom<TokenMessage> for Token {
    type Error = TokenError;

    fn try_from(message: TokenMessage) -> Result<Self, TokenError> {
        let field = TokenError::Field;
        if message.endpoints.is_empty() || message.endpoints.len() > MAX_ENDPOINTS {
            return Err(field("list of endpoints"));
        }
        let endpoints = message.endpoints.iter().map(|e| e.parse().map_err(|_| field("list of endpoints")));
        Ok(Self {
            mesh: MeshId(u128::from_be_bytes(
                message.mesh.as_slice().try_into().map_err(|_| field("mesh id"))?,
            )),
            id: TokenId(message.id),
            secret: Secret(message.secret.as_slice().try_into().map_err(|_| field("secret"))?),
            endpoints: endpoints.collect::<Result<_, _>>()?,
            ca_pin: message.ca_pin.as_slice().try_into().map_err(|_| field("CA pin"))?,
            issuer: message.issuer.parse().map_err(|_| field("issuing cluster"))?,
            expires: message.expires,
        })
    }
}

/// A span of time as people say it.
struct Ago(u64);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            s @ 0..=119 => write!(f, "{s} s ago"),
            s @ 120..=7199 => write!(f, "{} min ago", s / 60),
            s @ 7200..=172_799 => write!(f, "{} h ago", s / 3600),
            s => write!(f, "{} days ago", s / 86_400),
        }
    }
}

/// A time as `2026-11-21 01:02:03 UTC`.
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0 / 86_400, self.0 % 86_400);
        // Howard Hinnant, chrono-compatible low-level date algorithms: civil_from_days.
        let z = days + 719_468;
        let era = z / 146_097;
        let day_of_era = z % 146_097;
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            mesh: MeshId(7),
            id: TokenId(9),
            secret: Secret::new([0xab; 32]),
            endpoints: vec!["192.0.2.1:4240".parse().unwrap(), "[2001:db8::1]:4240".parse().unwrap()],
            ca_pin: [1; 32],
            issuer: "east".parse().unwrap(),
            expires: 1_795_222_923,
        }
    }

    #[test]
    fn round_trips_and_hides_its_secret() {
        let text = token().reveal();
        assert_eq!(text.parse::<Token>(), Ok(token()));
        assert_eq!(format!(" {text}\n").parse::<Token>(), Ok(token()));
        assert!(format!("{:?}", token()).contains("secret: [redacted]"));
    }

    #[test]
    fn says_what_is_wrong() {
        let text = token().reveal();
        for end in 0..text.len() {
            let error = text[..end].parse::<Token>().unwrap_err();
            let expected = if end < FAMILY.len() { TokenError::NotAToken } else { TokenError::CutShort };
            assert_eq!(error, expected, "{end}");
        }
        let newer = text.replacen("tombolo1", "tombolo2", 1).parse::<Token>();
        assert_eq!(newer, Err(TokenError::UnknownVersion("2".into())));
        let swapped = text.replacen('.', ".A", 1).parse::<Token>();
        assert_eq!(swapped, Err(TokenError::Damaged));
        assert_eq!("kubeadm".parse::<Token>(), Err(TokenError::NotAToken));
    }

    #[test]
    fn expiry_names_time_and_clock() {
        assert_eq!(token().check_time(token().expires - 1), Ok(()));
        let error = token().check_time(token().expires + 7200).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the token expired 2 h ago: it ended at 2026-11-21 01:02:03 UTC and the clock here says \
             2026-11-21 03:02:03 UTC; create a new one with `tombolo token create`, or set the clock"
        );
        assert_eq!(Utc(951_782_400).to_string(), "2000-02-29 00:00:00 UTC");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_harm(text in "(tombolo1\\.)?[A-Za-z0-9_.-]{0,64}") {
            let _ = text.parse::<Token>();
        }

        #[test]
        fn any_payload_is_decoded_without_harm(bytes: Vec<u8>) {
            let payload = URL_SAFE_NO_PAD.encode(bytes);
            let _ = format!("tombolo1.{payload}.{}", checksum(&payload)).parse::<Token>();
        }

        #[test]
        fn a_changed_character_is_noticed(at in 9usize..200, to in "[A-Za-z0-9]") {
            let mut text = token().reveal();
            prop_assume!(at < text.len() && text[at..=at] != to);
            text.replace_range(at..=at, &to);
            prop_assert!(text.parse::<Token>().is_err());
        }
    }
}
