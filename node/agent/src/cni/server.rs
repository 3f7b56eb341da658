//! The unix socket on which the plugin asks.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tombolo_cni::protocol::{self, MessageError, Request, Response};

use super::Manager;
use crate::metrics::{CniLabels, Metrics};

/// How long a peer may take to say what it wants, and to take the answer.
const EXCHANGE: Duration = Duration::from_secs(5);

/// Calls at the same time; more wait in the socket's backlog.
const CONCURRENCY: usize = 64;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path:?}: {source}")]
pub struct ServerError {
    path: PathBuf,
    source: io::Error,
}

/// Listens at `path` and answers until the future is dropped. Only root can connect.
pub async fn serve(path: &Path, manager: Arc<Manager>, metrics: Arc<Metrics>) -> Result<(), ServerError> {
    let failed = |source| ServerError { path: path.to_owned(), source };
    let listener = listen(path).map_err(failed)?;
    // A DEL may have been queued between the adoption and now; from now on none is.
    manager.replay().await;
    let slots = Arc::new(Semaphore::new(CONCURRENCY));
    loop {
        // Never closed.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of descriptors, most likely: it passes.
                tracing::warn!(error = %e, "cannot accept a CNI call");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (manager, metrics) = (Arc::clone(&manager), Arc::clone(&metrics));
        tokio::spawn(async move {
            if let Err(e) = answer(stream, &manager, &metrics).await {
                tracing::warn!(error = %e, "a CNI call was cut short");
            }
            drop(slot);
        });
    }
}

/// Replaces the socket of an agent before; two agents at a time are kept apart by the DaemonSet.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // Made under another name, so that nobody connects before the mode is right.
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

async fn answer(mut stream: UnixStream, manager: &Manager, metrics: &Metrics) -> Result<(), MessageError> {
    let peer = stream.peer_cred()?;
    if peer.uid() != 0 {
        tracing::warn!(uid = peer.uid(), "refused a CNI call: only root may make one");
        return Ok(());
    }
    let request: Request = timeout(EXCHANGE, receive(&mut stream)).await.map_err(io::Error::from)??;
    tracing::debug!(?request, "CNI call");
    let _running = manager.begin();
    let (command, started) = (command(&request), Instant::now());
    let response = manager.handle(request).await;
    let code = if let Response::Failed(failure) = &response { failure.code } else { 0 };
    let labels = CniLabels { command, code };
    metrics.cni_calls.get_or_create(&labels).inc();
    metrics.cni_duration.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
    tracing::debug!(?response, "CNI answer");
    let message = protocol::encode(&response)?;
    timeout(EXCHANGE, stream.write_all(&message)).await.map_err(io::Error::from)??;
    Ok(())
}

async fn receive(stream: &mut UnixStream) -> Result<Request, MessageError> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; protocol::body_length(header)?];
    stream.read_exact(&mut body).await?;
    protocol::decode(&body)
}

const fn command(request: &Request) -> &'static str {
    match request {
        Request::Add { .. } => "ADD",
        Request::Del { .. } => "DEL",
        Request::Check { .. } => "CHECK",
        Request::Gc { .. } => "GC",
        Request::Status => "STATUS",
    }
}
