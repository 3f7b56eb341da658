//! The verdict over selector bitmaps.

use tombolo_abi::{Bitmap, Direction, DropReason, PolicyKey, protocol};

use crate::{Headers, Tables, flow::Seen};

/// What the rules are asked: whether an endpoint may have a connection in a direction, from or to a peer.
pub struct Question {
    /// The endpoint's number.
    pub endpoint: u32,
    /// The direction in which the connection was opened.
    pub direction: Direction,
    /// The identity of the other side.
    pub peer: u32,
    /// What the packet is in this connection.
    pub seen: Seen,
}

/// Asks the rules of an endpoint about the connection of a packet.
///
/// # Errors
/// [`DropReason::PolicyDenied`].
#[inline(never)]
pub fn check<T: Tables>(tables: &T, headers: &Headers, question: &Question) -> Result<(), DropReason> {
    let (number, port) = match headers.tuple.protocol {
        // An error that follows no connection is judged as what it is.
        _ if headers.is_error() && question.seen == Seen::New => (headers.protocol, 0),
        number @ (protocol::TCP | protocol::UDP | protocol::SCTP) if question.seen.is_reply() => {
            (number, headers.tuple.source_port)
        }
        number @ (protocol::TCP | protocol::UDP | protocol::SCTP) => (number, headers.tuple.destination_port),
        number => (number, 0),
    };
    let rule = tables
        .policy(&PolicyKey::port(question.endpoint, question.direction, number, port))
        .ok_or(DropReason::PolicyDenied)?;
    let allowed = match tables.identity(question.peer) {
        Some(selectors) => rule.allows(selectors),
        None => rule.allows(&Bitmap::ANY),
    };
    if allowed { Ok(()) } else { Err(DropReason::PolicyDenied) }
}
