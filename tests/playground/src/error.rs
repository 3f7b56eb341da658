//! What can go wrong with a playground, in words that say what to do next.

use std::io;
use std::path::{Path, PathBuf};

/// The result of a playground operation.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed playground operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field of a [`crate::Spec`], a link state or a name given by the user is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// What the operation needs is not on this machine or not running.
    #[error("{0}")]
    Missing(String),
    /// A playground of another shape, or of another checkout, is running.
    #[error("{0}")]
    Occupied(String),
    /// A file operation failed.
    #[error("cannot {doing} {}: {cause}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "create".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        cause: io::Error,
    },
    /// A program ended with an error.
    #[error("`{command}` failed: {reason}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote to standard error, or how it ended.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {doing}: {cause}")]
    System {
        /// What was tried.
        doing: String,
        /// Why it failed.
        cause: nix::Error,
    },
    /// Something that should come up did not.
    #[error("{what} not within {seconds} s; {hint}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long, in seconds.
        seconds: u64,
        /// Where to look.
        hint: String,
    },
    /// A certificate could not be made.
    #[error("cannot make the certificate for {subject}: {cause}")]
    Certificate {
        /// The common name of the certificate.
        subject: String,
        /// Why it failed.
        cause: rcgen::Error,
    },
    /// A program or a state file said something unexpected.
    #[error("cannot read {what}: {cause}")]
    Json {
        /// Which document.
        what: String,
        /// Why it failed.
        cause: serde_json::Error,
    },
    /// The user ended the operation.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Returns a closure for `map_err` that says which file operation failed.
    pub fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |cause| Self::Io { doing, path, cause }
    }

    /// Returns a closure for `map_err` that says which system call failed.
    pub fn system(doing: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let doing = doing.into();
        move |cause| Self::System { doing, cause }
    }
}
