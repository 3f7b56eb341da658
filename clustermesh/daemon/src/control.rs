//! The unix socket of the status command: one JSON request a line, one JSON answer a line.
//!
//! The socket is reached by exec into the pod only, so whoever may do that is authorised by Kubernetes.

use std::{io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tracing::debug;

use crate::status::{Shared, Status};

/// The longest request.
const MAX_REQUEST: u64 = 64 << 10;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// The status of this replica.
    Status,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// Why the request was not done, in one sentence.
    Error(String),
}

/// Serves the socket until dropped. What is left of a socket from before is replaced.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(path: &Path, status: Shared) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        while connections.try_join_next().is_some() {}
        let status = status.clone();
        connections.spawn(async move {
            if let Err(error) = answer(stream, &status).await {
                debug!(%error, "control connection ended");
            }
        });
    }
}

async fn answer(stream: UnixStream, status: &Shared) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(Request::Status) => Response::Status(Box::new(status.get())),
        Err(error) => Response::Error(format!("the request is not understood: {error}")),
    };
    write.write_all(&to_line(&response)?).await
}

/// Asks the daemon that serves the socket.
///
/// # Errors
/// No daemon serves it, or the answer is not understood.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    let (read, mut write) = UnixStream::connect(path).await?.into_split();
    write.write_all(&to_line(request)?).await?;
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    from_line(&line)
}

fn to_line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn from_line<T: DeserializeOwned>(line: &str) -> io::Result<T> {
    Ok(serde_json::from_str(line)?)
}

#[cfg(test)]
mod tests {
    use tombolo_model::ClusterId;

    use super::*;

    #[tokio::test]
    async fn answers_status_and_names_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let shared = Shared::new("east".parse().unwrap(), ClusterId::try_from(1).unwrap(), "pod".to_owned());
        let server = tokio::spawn({
            let (path, shared) = (path.clone(), shared.clone());
            async move { serve(&path, shared).await }
        });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        shared.lead(true);
        let Response::Status(status) = ask(&path, &Request::Status).await.unwrap() else { panic!() };
        assert!(status.leader && !status.complete);
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"request\": \"nonsense\"}\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("nonsense"), "{answer}");
        server.abort();
    }
}
