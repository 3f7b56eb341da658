//! Links, addresses, routes and neighbours of one network namespace, over rtnetlink(7).

mod batch;
mod link;
mod remove;
mod route;
mod watch;

use std::{io, sync::Arc};

pub use batch::Batch;
pub use link::{Link, VethSpec};
pub use remove::{Removal, remove};
pub use route::{Route, RouteSpec};
use rtnetlink::Handle;
use tokio::sync::Mutex;
pub use watch::{watch, watch_removals};

/// The routing protocol number of the routes that the agent owns (`ip route … proto 178`).
pub const ROUTE_PROTOCOL: u8 = 178;

/// A netlink socket of the namespace in which it was opened.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
    /// Held while something is listed: the kernel refuses a second listing on a socket with EBUSY.
    listing: Arc<Mutex<()>>,
}

/// Why the kernel did not do something.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// It refused.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Its error number.
        source: io::Error,
    },
    /// The connection does not work, or the request makes no sense.
    #[error("{what}: {message}")]
    Broken {
        /// What was asked for.
        what: String,
        /// What happened.
        message: String,
    },
}

impl NetlinkError {
    fn new(what: impl Into<String>, error: &rtnetlink::Error) -> Self {
        let what = what.into();
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused { what, source: message.to_io() },
            other => Self::Broken { what, message: other.to_string() },
        }
    }

    fn broken(what: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Broken { what: what.into(), message: message.into() }
    }

    /// The error number of the kernel, if it is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Broken { .. } => None,
        }
    }

    /// Whether what was asked for does not exist.
    pub fn is_gone(&self) -> bool {
        matches!(self.errno(), Some(libc::ENODEV | libc::ENOENT | libc::ESRCH | libc::EADDRNOTAVAIL))
    }
}

impl Netlink {
    /// A socket in the namespace of the calling thread; needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, listing: Arc::default() })
    }
}
