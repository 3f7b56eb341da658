//! Frames and records of a session: whatever is accepted can be sent on and says the same again.

use tombolo_mesh_core::wire::{Frame, decode_change, decode_frame, encode_change, encode_frame};

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    if let Ok(frame) = decode_frame(bytes) {
        let again = encode_frame(&frame).expect("what was accepted can be sent");
        let again = decode_frame(&again).expect("what is sent is accepted");
        match (frame, again) {
            // What was left out of a transaction is not sent again.
            (Frame::Transaction(one), Frame::Transaction(other)) => assert_eq!(one.changes, other.changes),
            (one, other) => assert_eq!(one, other),
        }
    }
    if let Ok(Some(change)) = decode_change(bytes) {
        let again = encode_change(&change).expect("what was accepted can be sent");
        assert_eq!(decode_change(&again), Ok(Some(change)));
    }
}
