//! One exchange with the node agent.

use std::{io, os::unix::net::UnixStream, path::Path, time::Duration};

use crate::protocol::{self, MessageError, Request, Response};

/// How long the agent may take. It waits up to five seconds for a pod's identity, and at times for the kernel.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the agent is down, or has never been there.
    #[error("the agent does not listen: {0}")]
    Down(#[source] io::Error),
    /// It listened, and went away or fell silent.
    #[error("the agent did not answer: {0}")]
    NoAnswer(#[source] io::Error),
    /// It answered something else.
    #[error("the agent's answer is not understood: {0}")]
    Garbled(#[source] MessageError),
}

/// Sends a request and waits for the response.
pub fn call(socket: &Path, request: &Request) -> Result<Response, ClientError> {
    let mut stream = UnixStream::connect(socket).map_err(ClientError::Down)?;
    stream.set_read_timeout(Some(TIMEOUT)).map_err(ClientError::NoAnswer)?;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(ClientError::NoAnswer)?;
    protocol::send(&mut stream, request).map_err(classify)?;
    protocol::receive(&mut stream).map_err(classify)
}

fn classify(error: MessageError) -> ClientError {
    match error {
        MessageError::Io(e) => ClientError::NoAnswer(e),
        other @ (MessageError::TooLong(_) | MessageError::Json(_)) => ClientError::Garbled(other),
    }
}
