//! The verdict over selector bitmaps.

use tombolo_abi::{Bitmap, Direction, DropReason, PolicyKey, protocol};

use crate::{Headers, Tables};

/// Asks the rules of an endpoint about a packet from or to `peer` (an identity).
///
/// # Errors
/// [`DropReason::PolicyDenied`].
#[inline(never)]
pub fn check<T: Tables>(
    tables: &T,
    headers: &mut Headers,
    endpoint: u32,
    direction: Direction,
    peer: u32,
) -> Result<(), DropReason> {
    headers.direction = Some(direction);
    let (number, port) = match headers.tuple.protocol {
        // An error that follows no connection is judged as what it is.
        _ if headers.is_error() => (headers.protocol, 0),
        number @ (protocol::TCP | protocol::UDP | protocol::SCTP) => (number, headers.tuple.destination_port),
        number => (number, 0),
    };
    let rule =
        tables.policy(&PolicyKey::port(endpoint, direction, number, port)).ok_or(DropReason::PolicyDenied)?;
    let allowed = match tables.identity(peer) {
        Some(selectors) => rule.allows(selectors),
        None => rule.allows(&Bitmap::ANY),
    };
    if allowed { Ok(()) } else { Err(DropReason::PolicyDenied) }
}
