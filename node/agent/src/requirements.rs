//! What the agent cannot do without, checked before it changes anything.

use nix::unistd::geteuid;
use tombolo_loader::features::{self, FeatureError};

/// Something is missing.
#[derive(Debug, thiserror::Error)]
pub enum RequirementError {
    /// Rights.
    #[error("tombolo-node must run as root: it makes network devices and loads BPF programs")]
    NotRoot,
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] FeatureError),
}

/// Verifies that the agent can work here.
pub fn check() -> Result<(), RequirementError> {
    if !geteuid().is_root() {
        return Err(RequirementError::NotRoot);
    }
    features::probe()?;
    Ok(())
}
