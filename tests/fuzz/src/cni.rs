//! What containerd gives to the plugin, and what the plugin gives to the agent: what is understood can be sent on, and
//! says the same again.

use tombolo_cni::{
    config::Config,
    protocol::{self, Request, Response, decode, encode, receive},
};

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    if let Ok(config) = Config::parse(bytes) {
        let _ = (config.refuse_unknown(), config.previous_addresses("eth0"));
    }
    if let Some((header, body)) = bytes.split_first_chunk::<4>()
        && protocol::body_length(*header).is_ok()
    {
        if let Ok(request) = decode::<Request>(body) {
            let sent = encode(&request).expect("what was understood can be sent");
            let again: Request = receive(&mut sent.as_slice()).expect("what is sent is understood");
            assert_eq!(again, request);
        }
        if let Ok(response) = decode::<Response>(body) {
            let sent = encode(&response).expect("what was understood can be sent");
            let again: Response = receive(&mut sent.as_slice()).expect("what is sent is understood");
            assert_eq!(again, response);
        }
    }
}
