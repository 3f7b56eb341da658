//! The unix socket of the commands: one JSON request a line, one JSON answer a line.
//!
//! The socket is reached by exec into the pod only, so whoever may do that is authorised by Kubernetes.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};
use tracing::debug;

use tombolo_model::{ClusterName, MeshStatus};

use crate::{
    authority::RotationHandle,
    mesh::{self, Mesh},
    status::{Shared, Status},
};

/// The longest request.
const MAX_REQUEST: u64 = 64 << 10;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// The status of this replica.
    Status,
    /// The mesh as the leader sees it.
    Mesh,
    /// Makes a token.
    CreateToken {
        /// Its lifetime, like `1h`.
        ttl: String,
    },
    /// Checks a token without using it.
    CheckToken {
        /// The token.
        token: String,
    },
    /// The tokens that the mesh remembers.
    ListTokens,
    /// Calls a token back.
    RevokeToken {
        /// Its id.
        id: String,
    },
    /// Takes a cluster out of the mesh.
    Leave {
        /// The cluster; this one if none is given.
        cluster: Option<ClusterName>,
    },
    /// Hands leadership of the membership to a cluster.
    Transfer {
        /// The cluster.
        cluster: ClusterName,
    },
    /// Goes on without the members that do not answer.
    Recover,
    /// Replaces the certificate authority of this cluster by a new one.
    RotateAuthority,
}

impl Request {
    /// How long the answer may take: what the mesh has to decide on takes its time.
    const fn patience(&self) -> Duration {
        match self {
            Self::Status | Self::Mesh | Self::ListTokens => Duration::from_secs(10),
            _ => Duration::from_secs(60),
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Mesh`].
    Mesh(Box<MeshStatus>),
    /// What was done, or what was asked for, as text.
    Text(String),
    /// Why the request was not done, in one sentence.
    Error(String),
}

/// The mesh, while this replica leads.
#[derive(Clone, Default)]
pub struct Leading(Arc<Mutex<Option<Leader>>>);

type Leader = (Mesh, RotationHandle);

impl Leading {
    /// Leadership begins, or ends.
    pub fn set(&self, leader: Option<Leader>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    fn get(&self) -> Result<Leader, String> {
        let leader = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        leader.ok_or_else(|| {
            "this replica does not lead: ask the one that the Lease tombolo-clustermesh names".to_owned()
        })
    }
}

/// Serves the socket until dropped. What is left of a socket from before is replaced.
///
/// # Errors
/// The socket cannot be made.
pub async fn serve(path: &Path, status: Shared, leading: Leading) -> io::Result<()> {
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
        let (status, leading) = (status.clone(), leading.clone());
        connections.spawn(async move {
            if let Err(error) = answer(stream, &status, &leading).await {
                debug!(%error, "control connection ended");
            }
        });
    }
}

async fn answer(stream: UnixStream, status: &Shared, leading: &Leading) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read.take(MAX_REQUEST)).read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(Request::Status) => Response::Status(Box::new(status.get())),
        Ok(request) => carry_out(request, leading).await.unwrap_or_else(Response::Error),
        Err(error) => Response::Error(format!("the request is not understood: {error}")),
    };
    write.write_all(&to_line(&response)?).await
}

async fn carry_out(request: Request, leading: &Leading) -> Result<Response, String> {
    let (mesh, rotation) = leading.get()?;
    let text = match request {
        Request::Status | Request::Mesh => {
            let status = mesh.status().map_err(|e| e.to_string())?;
            let status = MeshStatus { rotation: rotation.progress(), ..status };
            return Ok(Response::Mesh(Box::new(status)));
        }
        Request::CreateToken { ttl } => mesh.create_token(mesh::parse_ttl(&ttl)?).await,
        Request::CheckToken { token } => mesh.check(&token).await.map_err(|e| e.to_string()),
        Request::ListTokens => mesh.list_tokens(),
        Request::RevokeToken { id } => mesh.revoke_token(&id).await,
        Request::Leave { cluster } => mesh.leave(cluster.as_ref()).await,
        Request::Transfer { cluster } => mesh.transfer(&cluster).await,
        Request::Recover => mesh.recover().await,
        Request::RotateAuthority => rotation.begin().await,
    };
    text.map(Response::Text)
}

/// Asks the daemon that serves the socket.
///
/// # Errors
/// No daemon serves it, it does not answer in time, or the answer is not understood.
pub async fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the daemon does not answer: see its log");
    tokio::time::timeout(request.patience(), exchange(path, request)).await.map_err(|_| late())?
}

async fn exchange(path: &Path, request: &Request) -> io::Result<Response> {
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
            async move { serve(&path, shared, Leading::default()).await }
        });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        shared.lead(true);
        let Response::Status(status) = ask(&path, &Request::Status).await.unwrap() else { panic!() };
        assert!(status.leader && !status.complete);
        let Response::Error(why) = ask(&path, &Request::Mesh).await.unwrap() else { panic!() };
        assert!(why.contains("does not lead"), "{why}");
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"{\"request\": \"nonsense\"}\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("nonsense"), "{answer}");
        server.abort();
    }
}
