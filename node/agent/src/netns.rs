//! Network namespaces of containers.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use tokio::{runtime::Handle, sync::oneshot};

use crate::netlink::Netlink;

/// An open network namespace; it lives at least as long as this.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    path: PathBuf,
}

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path leads to nothing.
    #[error(
        "network namespace {0:?} does not exist: the container is gone, or its runtime passed a wrong CNI_NETNS"
    )]
    Gone(PathBuf),
    /// The path leads to something else.
    #[error("{0:?} is not a network namespace: the runtime passed a wrong CNI_NETNS")]
    NotANamespace(PathBuf),
    /// It cannot be opened or entered.
    #[error("network namespace {path:?} cannot be used: {source}")]
    Io {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Netns {
    /// Opens the namespace that is mounted, or shown by procfs, at `path`.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => NetnsError::Gone(path.to_owned()),
            _ => NetnsError::Io { path: path.to_owned(), source },
        })?;
        // A runtime that removes a namespace leaves the file behind for a moment, as an empty one.
        let stat = fstatfs(&file).map_err(|e| NetnsError::Io { path: path.to_owned(), source: e.into() })?;
        if stat.filesystem_type() != NSFS_MAGIC {
            return Err(NetnsError::NotANamespace(path.to_owned()));
        }
        Ok(Self { file: Arc::new(file), path: path.to_owned() })
    }

    /// The descriptor, to pass to the kernel.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there belong to the namespace for ever; the
    /// thread ends with `work`, so that no other code ever runs in it.
    pub async fn run<T, F>(&self, work: F) -> Result<T, NetnsError>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        let (file, runtime) = (Arc::clone(&self.file), Handle::current());
        let enter = move || {
            let _runtime = runtime.enter();
            let result =
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| work());
            // Nobody waits any more when the caller was cancelled.
            let _ = send.send(result);
        };
        let io = |source| NetnsError::Io { path: self.path.clone(), source };
        thread::Builder::new().name("netns".into()).spawn(enter).map_err(io)?;
        receive.await.unwrap_or_else(|_| Err(io::Error::other("the thread inside ended early"))).map_err(io)
    }

    /// A netlink socket inside.
    pub async fn netlink(&self) -> Result<Netlink, NetnsError> {
        self.run(Netlink::new).await
    }
}
