//! Tokens, names and pins that users and peers write.

use tombolo_mesh_core::{
    token::Token,
    trust::{Pin, SpiffeId},
};

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.reveal().parse::<Token>(), Ok(token));
    }
    if let Ok(pin) = text.parse::<Pin>() {
        assert_eq!(pin.to_string().parse::<Pin>(), Ok(pin));
    }
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
    }
}
