//! SCTP packets of the first steps of an association, as bytes. Source: RFC 9260.

/// The number of the protocol in IP headers.
pub const PROTOCOL: u8 = 132;

/// Bytes before the first chunk.
const HEADER: usize = 12;
/// The parameter of INIT ACK that the other end gets back in COOKIE ECHO.
const STATE_COOKIE: u16 = 7;
/// How many bytes a receiver would take at once; nothing is ever sent.
const WINDOW: u32 = 65_536;

/// A packet with one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The sender's port.
    pub source: u16,
    /// The receiver's port.
    pub destination: u16,
    /// The verification tag: what the receiver has said that its packets shall bear.
    pub tag: u32,
    /// What it says.
    pub chunk: Chunk,
}

/// What a packet says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// An association is asked for; packets of it shall bear this tag.
    Init {
        /// The tag.
        tag: u32,
    },
    /// It can be had, by returning the cookie.
    InitAck {
        /// What packets to the other end shall bear.
        tag: u32,
        /// What it wants back.
        cookie: Vec<u8>,
    },
    /// There is none, or no more.
    Abort,
    /// The cookie is returned.
    CookieEcho(Vec<u8>),
    /// The association is there.
    CookieAck,
    /// Something else, by its number.
    Other(u8),
}

impl Packet {
    /// The packet as it travels after the IP header.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, value) = self.chunk.encode();
        let mut bytes = Vec::new();
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([kind, 0]);
        bytes.extend(length_of(&value).to_be_bytes());
        bytes.extend(&value);
        pad(&mut bytes);
        // The one field of the protocol whose least significant byte is first (appendix A).
        let sum = crc32c(&bytes).to_le_bytes();
        bytes.splice(8..HEADER, sum);
        bytes
    }

    /// Reads a packet and checks its checksum; of several chunks it is the first.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let header = bytes.get(..HEADER).ok_or("packet is shorter than its header")?;
        let mut summed = bytes.to_vec();
        let sum: Vec<u8> = summed.splice(8..HEADER, [0; 4]).collect();
        if sum != crc32c(&summed).to_le_bytes() {
            return Err("checksum is wrong".into());
        }
        let chunk = bytes.get(HEADER..).unwrap_or_default();
        let length = usize::from(be16(chunk, 2)?);
        let value = chunk.get(4..length).ok_or("chunk is longer than its packet")?;
        Ok(Self {
            source: be16(header, 0)?,
            destination: be16(header, 2)?,
            tag: be32(header, 4)?,
            chunk: Chunk::decode(chunk.first().copied().unwrap_or_default(), value)?,
        })
    }
}

impl Chunk {
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Init { tag } => (1, offer(*tag)),
            Self::InitAck { tag, cookie } => {
                let mut value = offer(*tag);
                value.extend(STATE_COOKIE.to_be_bytes());
                value.extend(length_of(cookie).to_be_bytes());
                value.extend(cookie);
                (2, value)
            }
            Self::Abort => (6, Vec::new()),
            Self::CookieEcho(cookie) => (10, cookie.clone()),
            Self::CookieAck => (11, Vec::new()),
            Self::Other(kind) => (*kind, Vec::new()),
        }
    }

    fn decode(kind: u8, value: &[u8]) -> Result<Self, String> {
        Ok(match kind {
            1 => Self::Init { tag: be32(value, 0)? },
            2 => Self::InitAck { tag: be32(value, 0)?, cookie: cookie(value.get(16..).unwrap_or_default())? },
            6 => Self::Abort,
            10 => Self::CookieEcho(value.to_vec()),
            11 => Self::CookieAck,
            other => Self::Other(other),
        })
    }
}

/// What INIT and INIT ACK begin with: the tag, the window, one stream each way, and the first number, which the tag
/// does for as well.
fn offer(tag: u32) -> Vec<u8> {
    let [tag, window] = [tag, WINDOW].map(u32::to_be_bytes);
    [tag, window, [0, 1, 0, 1], tag].concat()
}

fn cookie(mut parameters: &[u8]) -> Result<Vec<u8>, String> {
    loop {
        let (kind, length) = (be16(parameters, 0)?, usize::from(be16(parameters, 2)?));
        let value = parameters.get(4..length).ok_or("parameter is longer than its chunk")?;
        if kind == STATE_COOKIE {
            return Ok(value.to_vec());
        }
        parameters = parameters.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The length field of a chunk or parameter with this value.
fn length_of(value: &[u8]) -> u16 {
    u16::try_from(value.len() + 4).unwrap_or(u16::MAX)
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn be16(bytes: &[u8], at: usize) -> Result<u16, String> {
    let field = bytes.get(at..at + 2).and_then(|field| field.try_into().ok());
    field.map(u16::from_be_bytes).ok_or_else(|| "packet is cut short".into())
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, String> {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    field.map(u32::from_be_bytes).ok_or_else(|| "packet is cut short".into())
}

/// The Castagnoli checksum, bit by bit: the packets are small and few.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 };
    let add = |sum: u32, byte: &u8| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum));
    !bytes.iter().fold(u32::MAX, add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4.
    #[test]
    fn the_checksum_is_that_of_the_examples() {
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(&ascending), 0x46DD_794E);
    }

    #[test]
    fn packets_survive_their_bytes() {
        let chunks = [
            Chunk::Init { tag: 7 },
            Chunk::InitAck { tag: 8, cookie: b"cookie".to_vec() },
            Chunk::Abort,
            Chunk::CookieEcho(b"cookie".to_vec()),
            Chunk::CookieAck,
        ];
        for chunk in chunks {
            let packet = Packet { source: 1, destination: 2, tag: 3, chunk };
            let bytes = packet.encode();
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(Packet::decode(&bytes), Ok(packet));
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let packet = Packet { source: 1, destination: 2, tag: 3, chunk: Chunk::Init { tag: 7 } };
        let bytes = packet.encode();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert!(Packet::decode(&other).is_err(), "byte {at} changed");
            assert!(Packet::decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_cookie_is_found_behind_other_parameters() {
        let parameters = [0x80, 9, 0, 5, 1, 0, 0, 0, 0, 7, 0, 6, 42, 43];
        assert_eq!(cookie(&parameters), Ok(vec![42, 43]));
        assert!(cookie(&parameters[..8]).is_err());
        assert!(cookie(&[0, 1, 0, 0]).is_err());
    }
}
