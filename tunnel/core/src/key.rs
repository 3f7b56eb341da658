//! Keys as WireGuard's configuration protocol writes them: 32 bytes, 64 lower-case hexadecimal digits.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroize;

/// A Curve25519 public key: the name of a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// A private or preshared key. Wiped when dropped, never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

/// The text is not a key.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a key is 64 hexadecimal digits")]
pub struct KeyError;

impl PublicKey {
    /// Reads 64 hexadecimal digits of either case.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }

    /// The key as 64 lower-case hexadecimal digits.
    pub fn to_hex(self) -> String {
        encode(&self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl SecretKey {
    /// Takes the raw 32 bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits of either case.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }

    /// The raw 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// True for the all-zero value, which the protocol uses for "no key".
    pub fn is_zero(&self) -> bool {
        self.0.iter().fold(0, |acc, b| acc | b) == 0
    }

    /// The key as 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        encode(&self.0)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(KeyError);
    }
    let mut key = [0u8; 32];
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = pair else { return Err(KeyError) };
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Ok(key)
}

fn digit(c: u8) -> Result<u8, KeyError> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        b'A'..=b'F' => Ok(c - b'A' + 10),
        _ => Err(KeyError),
    }
}

fn encode(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        let text = "00ff10a5".repeat(8);
        assert_eq!(PublicKey::from_hex(&text).unwrap().to_hex(), text);
        assert_eq!(SecretKey::from_hex(&text.to_uppercase()).unwrap().to_hex(), text);
        assert_eq!(PublicKey::from_hex("00"), Err(KeyError));
        assert_eq!(PublicKey::from_hex(&"g0".repeat(32)), Err(KeyError));
        assert!(!format!("{:?}", SecretKey::new([7; 32])).contains('7'));
    }
}
