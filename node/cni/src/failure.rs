//! What went wrong, as the CNI specification reports it.

use serde::{Deserialize, Serialize};

/// A failed call: the error object of the CNI specification, section 5, without the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}")]
pub struct Failure {
    /// One of [`code`].
    pub code: u32,
    /// One sentence: what failed, with which value, and the remedy.
    pub msg: String,
    /// More, for the log; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same failure with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}

/// Error codes: below 100 those of the CNI specification and of its library, from 100 our own.
pub mod code {
    /// The version of the configuration is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// The configuration has a field that is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or not valid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// A text could not be decoded.
    pub const DECODE: u32 = 6;
    /// The configuration is not valid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is not there (of libcni; the specification's table has no such code).
    pub const INVALID_NETNS: u32 = 8;
    /// Something is not ready yet; the runtime should call again.
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// The interface name is taken in the container.
    pub const INTERFACE_EXISTS: u32 = 100;
    /// The node has no free address.
    pub const NO_ADDRESS: u32 = 101;
    /// CHECK found something missing or changed.
    pub const CHECK_FAILED: u32 = 102;
    /// The kernel refused an operation.
    pub const KERNEL: u32 = 103;
}
