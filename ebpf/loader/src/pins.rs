//! The directory of pins.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Where pins live unless told otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/tombolo";

/// The directory of pins cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinDirError {
    /// It is on another filesystem.
    #[error(
        "pin directory {0} is not on a BPF filesystem: mount one there with `mount -t bpf bpf <directory>`"
    )]
    NotBpf(PathBuf),
    /// It cannot be made or changed.
    #[error("pin directory {path}: {source}")]
    Io {
        /// The directory or a file in it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Directory of the links.
pub(crate) fn links(pin_dir: &Path) -> PathBuf {
    pin_dir.join("links")
}

/// Whether something was removed, or was not there.
pub(crate) fn unless_gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the directories.
pub(crate) fn prepare(pin_dir: &Path) -> Result<(), PinDirError> {
    let links = links(pin_dir);
    fs::create_dir_all(&links).map_err(|source| PinDirError::Io { path: links.clone(), source })?;
    let filesystem = statfs(&links).map_err(|e| PinDirError::Io { path: links.clone(), source: e.into() })?;
    if filesystem.filesystem_type() != BPF_FS_MAGIC {
        // Leave no directories behind on a filesystem that is not ours.
        let _ = fs::remove_dir(&links);
        let _ = fs::remove_dir(pin_dir);
        return Err(PinDirError::NotBpf(pin_dir.to_owned()));
    }
    Ok(())
}

/// Detaches all programs but those of pods and removes all maps below `pin_dir`; nothing happens when it does not exist.
///
/// # Errors
/// A file cannot be removed; what could be is gone.
pub fn unload(pin_dir: &Path) -> Result<(), PinDirError> {
    if !pin_dir.exists() {
        return Ok(());
    }
    // Links first: a program without its maps would be an accident, maps without programs are not.
    for directory in [links(pin_dir), pin_dir.to_owned()] {
        unless_gone(fs::remove_dir_all(&directory))
            .map_err(|source| PinDirError::Io { path: directory, source })?;
    }
    Ok(())
}
