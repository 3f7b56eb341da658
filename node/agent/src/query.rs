//! Asks the running agent over its unix socket, for those who are in its container.

use std::{path::Path, time::Duration};

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// How long an agent may take to answer; one that is stopped keeps its socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer to a GET of `path`; an answer that is no success is an error with its text.
pub async fn get(socket: &Path, path: &str) -> anyhow::Result<String> {
    match tokio::time::timeout(PATIENCE, ask(socket, path)).await {
        Ok(answer) => answer,
        Err(_) => bail!("the agent does not answer within {} s: see its log", PATIENCE.as_secs()),
    }
}

async fn ask(socket: &Path, path: &str) -> anyhow::Result<String> {
    let stream = UnixStream::connect(socket).await.with_context(|| {
        format!("the agent does not listen at {}: is it still starting?", socket.display())
    })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.context("no HTTP at the socket")?;
    let running = tokio::spawn(connection);
    let request = Request::get(path).header("host", "agent").body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("the agent did not answer")?;
    let status = response.status();
    let body = response.into_body().collect().await.context("the answer broke off")?.to_bytes();
    running.abort();
    let text = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() { Ok(text) } else { bail!("{}", text.trim()) }
}
