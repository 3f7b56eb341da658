//! Parsing of single fields, with the field's name in every error.

use tombolo_model::{Address, ClusterId, Identity, Prefix, Protocol};

use super::{limits, proto};

/// Why a record or a message cannot be accepted, or cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// The bytes are no protobuf message of the expected type.
    #[error("not a message: {0}")]
    Encoding(#[from] prost::DecodeError),
    /// A required field is absent or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// More bytes than allowed.
    #[error("{field} has {len} bytes, the most is {max}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Bytes it has.
        len: usize,
        /// Bytes it may have.
        max: usize,
    },
    /// More elements than allowed.
    #[error("{field} has {count} elements, the most is {max}")]
    TooMany {
        /// The field.
        field: &'static str,
        /// Elements it has.
        count: usize,
        /// Elements it may have.
        max: usize,
    },
    /// A value that the field cannot have.
    #[error("{field} has the value {value}, which is not valid")]
    Invalid {
        /// The field.
        field: &'static str,
        /// The value, or for bytes their number.
        value: String,
    },
}

pub type Result<T> = std::result::Result<T, FieldError>;

pub fn invalid(field: &'static str, value: impl ToString) -> FieldError {
    FieldError::Invalid { field, value: value.to_string() }
}

/// A text of at most `max` bytes, maybe empty.
pub fn text(field: &'static str, s: String, max: usize) -> Result<String> {
    if s.len() > max { Err(FieldError::TooLong { field, len: s.len(), max }) } else { Ok(s) }
}

/// A name that must be there.
pub fn name(field: &'static str, s: String) -> Result<String> {
    if s.is_empty() { Err(FieldError::Missing(field)) } else { text(field, s, limits::MAX_NAME) }
}

pub fn count<T>(field: &'static str, items: &[T], max: usize) -> Result<()> {
    let count = items.len();
    if count > max { Err(FieldError::TooMany { field, count, max }) } else { Ok(()) }
}

/// Each element parsed, after their number is found to be allowed.
pub fn list<T, U>(
    field: &'static str,
    items: Vec<T>,
    max: usize,
    parse: impl FnMut(T) -> Result<U>,
) -> Result<Vec<U>> {
    count(field, &items, max)?;
    items.into_iter().map(parse).collect()
}

pub fn cluster(field: &'static str, id: u32) -> Result<ClusterId> {
    u16::try_from(id).ok().and_then(|id| ClusterId::try_from(id).ok()).ok_or_else(|| invalid(field, id))
}

/// An identity that somebody owns or that is reserved; 0 is none.
pub fn identity(field: &'static str, bits: u32) -> Result<Identity> {
    let id = Identity::from_bits(bits);
    let known = match id.cluster() {
        Some(cluster) => Identity::new(cluster, id.local()).is_some(),
        None => id != Identity::UNKNOWN && id.reserved_name().is_some(),
    };
    if known { Ok(id) } else { Err(invalid(field, bits)) }
}

pub fn address(field: &'static str, bytes: &[u8]) -> Result<Address> {
    bytes
        .try_into()
        .map(Address::from_octets)
        .map_err(|_| invalid(field, format_args!("of {} bytes", bytes.len())))
}

pub fn addresses(field: &'static str, list: &[Vec<u8>]) -> Result<Vec<Address>> {
    count(field, list, limits::MAX_ADDRESSES)?;
    list.iter().map(|bytes| address(field, bytes)).collect()
}

pub fn prefix(field: &'static str, prefix: &proto::Prefix) -> Result<Prefix> {
    let address = address(field, &prefix.address)?;
    let bits = u8::try_from(prefix.bits).ok().filter(|b| *b <= 128);
    let bits = bits.ok_or_else(|| invalid(field, format_args!("of {} bits", prefix.bits)))?;
    let parsed = Prefix::new(address, bits);
    if parsed.address() == address {
        Ok(parsed)
    } else {
        Err(invalid(field, format_args!("{address}/{bits}")))
    }
}

pub fn port(field: &'static str, port: u32) -> Result<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0).ok_or_else(|| invalid(field, port))
}

pub fn protocol(field: &'static str, number: u32) -> Result<Protocol> {
    u8::try_from(number).ok().and_then(Protocol::from_number).ok_or_else(|| invalid(field, number))
}

pub fn octets(addresses: &[Address]) -> Vec<Vec<u8>> {
    addresses.iter().map(|a| a.octets().to_vec()).collect()
}

pub fn prefix_message(prefix: Prefix) -> proto::Prefix {
    proto::Prefix { address: prefix.address().octets().to_vec(), bits: prefix.bits().into() }
}
