//! What is told of a packet that is dropped.

use tombolo_abi::Direction;

/// What the event of a drop says besides the headers; nothing is decided by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Identity of the sender, 0 while it is not known.
    pub source_identity: u32,
    /// Identity of the receiver, 0 while it is not known.
    pub destination_identity: u32,
    /// Whose rules were asked last, or would be.
    pub direction: Option<Direction>,
}

impl Report {
    /// Of a packet in this direction, of which nothing is known yet.
    #[inline(always)]
    pub const fn new(direction: Direction) -> Self {
        Self { source_identity: 0, destination_identity: 0, direction: Some(direction) }
    }
}
