//! What the plugin and the node agent say to each other: one request and one response per connection of a unix
//! socket, each a big-endian `u32` length and as many bytes of JSON.

use std::{
    io::{self, Read, Write},
    net::IpAddr,
    path::PathBuf,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Failure;

/// Where the agent listens.
pub const DEFAULT_SOCKET: &str = "/run/tombolo/cni.sock";

/// The most bytes of JSON in a message: room for a GC of thousands of attachments.
pub const MAX_MESSAGE: u32 = 1 << 20;

/// One interface of one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The container (pod sandbox) id that the runtime gave.
    pub container_id: String,
    /// The interface's name inside.
    pub ifname: String,
}

/// The pod that a container belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty when the runtime does not tell.
    #[serde(default)]
    pub uid: String,
}

/// What the plugin asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "UPPERCASE", deny_unknown_fields)]
pub enum Request {
    /// Connect a pod; answered by [`Response::Added`].
    Add {
        /// The interface to make.
        attachment: Attachment,
        /// Path of the container's network namespace.
        netns: PathBuf,
        /// The pod.
        pod: Pod,
    },
    /// Disconnect a pod; what is gone already is success.
    Del {
        /// The interface to remove.
        attachment: Attachment,
    },
    /// Verify that the interface is as ADD made it.
    Check {
        /// The interface.
        attachment: Attachment,
        /// Path of the container's network namespace.
        netns: PathBuf,
        /// The addresses that the result of ADD gave to it.
        addresses: Vec<IpAddr>,
    },
    /// Disconnect all that is not listed.
    Gc {
        /// What stays.
        valid: Vec<Attachment>,
    },
    /// Whether ADD can be served.
    Status,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Response {
    /// The interface that ADD made.
    Added(Added),
    /// Success of all but ADD.
    Done,
    /// Nothing, or not all, was done.
    Failed(Failure),
}

/// A connected pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Name of the interface on the host.
    pub host_ifname: String,
    /// Its link-layer address, as `aa:bb:cc:dd:ee:ff`.
    pub host_mac: String,
    /// Link-layer address of the interface in the container.
    pub mac: String,
    /// MTU of both, bytes.
    pub mtu: u32,
    /// Addresses of the pod, one per family.
    pub addresses: Vec<Assigned>,
}

/// One address of a pod; the prefix is always the whole address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// The address.
    pub address: IpAddr,
    /// The link-local gateway of the pod's default route.
    pub gateway: IpAddr,
}

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Reading or writing failed; the other side may be gone.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Too long.
    #[error("a message of {0} bytes is longer than the {max} that are allowed", max = MAX_MESSAGE)]
    TooLong(u64),
    /// Not a message of this protocol.
    #[error("the message is not understood: {0}")]
    Json(#[from] serde_json::Error),
}

/// A message with its length in front.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = body_length(u32::try_from(bytes.len() - 4).unwrap_or(u32::MAX).to_be_bytes())?;
    // A length that passed the check fits.
    let header = u32::try_from(length).unwrap_or(MAX_MESSAGE).to_be_bytes();
    for (to, from) in bytes.iter_mut().zip(header) {
        *to = from;
    }
    Ok(bytes)
}

/// The length that a header announces, if it is allowed.
pub fn body_length(header: [u8; 4]) -> Result<usize, MessageError> {
    let length = u32::from_be_bytes(header);
    if length > MAX_MESSAGE {
        return Err(MessageError::TooLong(length.into()));
    }
    usize::try_from(length).map_err(|_| MessageError::TooLong(length.into()))
}

/// A message from the bytes after its header.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, MessageError> {
    Ok(serde_json::from_slice(body)?)
}

/// Writes one message.
pub fn send<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), MessageError> {
    to.write_all(&encode(message)?)?;
    Ok(to.flush()?)
}

/// Reads one message.
pub fn receive<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, MessageError> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut body = vec![0; body_length(header)?];
    from.read_exact(&mut body)?;
    decode(&body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_back() {
        let request =
            Request::Gc { valid: vec![Attachment { container_id: "c".into(), ifname: "eth0".into() }] };
        let mut wire = Vec::new();
        send(&mut wire, &request).unwrap();
        assert_eq!(receive::<Request>(&mut wire.as_slice()).unwrap(), request);
    }

    #[test]
    fn long_and_short_messages_are_refused() {
        let header = (MAX_MESSAGE + 1).to_be_bytes();
        assert!(matches!(receive::<Request>(&mut header.as_slice()), Err(MessageError::TooLong(_))));
        assert!(matches!(receive::<Request>(&mut [0u8, 0, 0, 9, b'{'].as_slice()), Err(MessageError::Io(_))));
        let long = Request::Del {
            attachment: Attachment { container_id: "x".repeat(2 << 20), ifname: "eth0".into() },
        };
        assert!(matches!(encode(&long), Err(MessageError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = receive::<Request>(&mut bytes.as_slice());
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
        }
    }
}
