//! The UAPI socket: reads requests, hands them to the engine, writes replies.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tombolo_tunnel_core::{DeviceUpdate, uapi};
use zeroize::Zeroizing;

use crate::interface::InterfaceName;

/// Clients served at once; more are turned away.
const MAX_CLIENTS: usize = 16;
/// Longest request: 65,536 peers with a few prefixes each.
const MAX_REQUEST: u64 = 64 << 20;
/// How long a client may leave a request unfinished or a reply unread.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client wants of the engine.
pub enum Request {
    /// `get=1`; answered by the text up to `errno=`.
    Get(SyncSender<Zeroizing<String>>),
    /// `set=1`; answered by 0 or a positive errno.
    Set(Box<DeviceUpdate>, SyncSender<i32>),
}

/// The engine's end: requests and the descriptor that becomes readable with them.
pub struct Requests {
    /// Pending requests.
    pub queue: Receiver<Request>,
    /// Readable when `queue` has something.
    pub wake: Arc<EventFd>,
}

/// The listening socket; its file is removed on drop.
pub struct Server {
    path: PathBuf,
}

#[derive(Clone)]
struct Engine {
    queue: SyncSender<Request>,
    wake: Arc<EventFd>,
}

impl Server {
    /// Listens on `<dir>/<interface>.sock`, mode 0600. Replaces a socket that nobody listens on any more; the
    /// caller already holds the device, so no living server can be there.
    pub fn bind(dir: &Path, interface: &InterfaceName) -> anyhow::Result<(Self, Requests)> {
        let path = dir.join(format!("{interface}.sock"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
        // Bound elsewhere first, so that the socket is never reachable under its name with a wider mode.
        let draft = dir.join(format!(".{interface}.{}", std::process::id()));
        let listener =
            UnixListener::bind(&draft).with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(&draft, Permissions::from_mode(0o600))
            .context("cannot protect the UAPI socket")?;
        fs::rename(&draft, &path).context("cannot name the UAPI socket")?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let (sender, queue) = sync_channel(MAX_CLIENTS);
        let engine = Engine { queue: sender, wake: Arc::clone(&wake) };
        thread::Builder::new().name("uapi".into()).spawn(move || accept(&listener, &engine))?;
        Ok((Self { path }, Requests { queue, wake }))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, engine: &Engine) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: give the clients time to go.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (engine, count) = (engine.clone(), Arc::clone(&clients));
        let spawned = thread::Builder::new().name("uapi-client".into()).spawn(move || {
            if let Err(error) = serve(&stream, &engine) {
                tracing::debug!("UAPI client: {error}");
            }
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Serves requests until the client hangs up.
fn serve(stream: &UnixStream, engine: &Engine) -> std::io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = Zeroizing::new(String::new());
        let mut limited = (&mut reader).take(MAX_REQUEST);
        while !request.ends_with("\n\n") && *request != "\n" {
            if limited.read_line(&mut request)? == 0 {
                return Ok(());
            }
        }
        let reply = engine.answer(request.trim_end_matches('\n'));
        (&*stream).write_all(reply.as_bytes())?;
    }
}

impl Engine {
    fn answer(&self, request: &str) -> Zeroizing<String> {
        let (operation, body) = request.split_once('\n').unwrap_or((request, ""));
        let (text, errno) = match operation {
            "get=1" if body.is_empty() => {
                let text = self.ask(Request::Get);
                (text.clone().unwrap_or_default(), if text.is_some() { 0 } else { libc::EIO })
            }
            "set=1" => (Zeroizing::default(), self.set(body)),
            _ => (Zeroizing::default(), libc::EINVAL),
        };
        // Negative, as wireguard-go has it and wg expects.
        Zeroizing::new(format!("{}errno={}\n\n", *text, -errno))
    }

    fn set(&self, body: &str) -> i32 {
        match uapi::parse_set(body) {
            Ok(update) => self.ask(|reply| Request::Set(Box::new(update), reply)).unwrap_or(libc::EIO),
            Err(error) => {
                tracing::warn!("refused a UAPI request: {error}");
                libc::EINVAL
            }
        }
    }

    fn ask<T>(&self, request: impl FnOnce(SyncSender<T>) -> Request) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.queue.send(request(reply)).ok()?;
        self.wake.write(1).ok()?;
        answer.recv_timeout(CLIENT_TIMEOUT).ok()
    }
}
