//! The directory of pins.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::MapInfo;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::layout::LAYOUTS;

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

/// Makes the directories, and removes pinned maps of another layout: their content cannot be read any more, and the
/// programs that use them are replaced when they are attached anew. Returns the names of those.
pub(crate) fn prepare(pin_dir: &Path) -> Result<Vec<&'static str>, PinDirError> {
    let links = links(pin_dir);
    fs::create_dir_all(&links).map_err(|source| PinDirError::Io { path: links.clone(), source })?;
    let filesystem = statfs(&links).map_err(|e| PinDirError::Io { path: links.clone(), source: e.into() })?;
    if filesystem.filesystem_type() != BPF_FS_MAGIC {
        // Leave no directories behind on a filesystem that is not ours.
        let _ = fs::remove_dir(&links);
        let _ = fs::remove_dir(pin_dir);
        return Err(PinDirError::NotBpf(pin_dir.to_owned()));
    }
    let mut replaced = Vec::new();
    for layout in LAYOUTS {
        let path = pin_dir.join(layout.name);
        if !path.exists() || MapInfo::from_pin(&path).is_ok_and(|info| layout.fits(&info)) {
            continue;
        }
        fs::remove_file(&path).map_err(|source| PinDirError::Io { path, source })?;
        replaced.push(layout.name);
    }
    Ok(replaced)
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
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(PinDirError::Io { path: directory, source }),
        };
        for entry in entries {
            let path = entry.map_err(|source| PinDirError::Io { path: directory.clone(), source })?.path();
            let removed = if path.is_dir() { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| PinDirError::Io { path, source })?;
        }
    }
    let links = links(pin_dir);
    if links.exists() {
        fs::remove_dir(&links).map_err(|source| PinDirError::Io { path: links, source })?;
    }
    fs::remove_dir(pin_dir).map_err(|source| PinDirError::Io { path: pin_dir.to_owned(), source })
}
