//! DELs that found no agent: one file each, which the agent carries out when it is back.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process,
};

use crate::{name, protocol::Attachment};

/// Where the files are.
pub const DEFAULT_DIR: &str = "/run/tombolo/cni-del";

/// The end of a file's name once it is complete.
const SUFFIX: &str = ".json";

/// The most bytes of a file: two names and some punctuation.
const MAX_FILE: u64 = 1024;

/// Leaves a DEL for the agent. It need not outlive a reboot: neither does the pod.
pub fn push(dir: &Path, attachment: &Attachment) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let name = format!("{}.{}", attachment.container_id, attachment.ifname);
    let temporary = dir.join(format!("{name}.{}.tmp", process::id()));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(attachment)?)?;
        fs::rename(&temporary, dir.join(format!("{name}{SUFFIX}")))
    };
    let written = write();
    if written.is_err() {
        // Whatever is left of it has no meaning to anybody.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// A queued DEL: the file, and what it says. The content counts, never the name.
pub type Entry = (PathBuf, Result<Attachment, EntryError>);

/// Why a file of the queue is not a DEL.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// It is a link, a directory or something else.
    #[error("not a regular file")]
    NotAFile,
    /// It is too long.
    #[error("longer than {MAX_FILE} bytes")]
    TooLong,
    /// It cannot be read.
    #[error("unreadable: {0}")]
    Io(#[from] io::Error),
    /// It holds something else.
    #[error("not a queued DEL: {0}")]
    Json(#[from] serde_json::Error),
    /// It holds a name that no runtime could have given.
    #[error(transparent)]
    Name(#[from] name::NameError),
}

/// Everything in the queue, by file name. A directory that does not exist is an empty queue.
pub fn list(dir: &Path) -> io::Result<Vec<Entry>> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.to_str().is_some_and(|p| p.ends_with(SUFFIX)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| (path.clone(), read(&path))).collect())
}

fn read(path: &Path) -> Result<Attachment, EntryError> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(EntryError::NotAFile);
    }
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(EntryError::TooLong);
    }
    let attachment: Attachment = serde_json::from_slice(&text)?;
    name::container_id(&attachment.container_id)?;
    name::interface(&attachment.ifname)?;
    Ok(attachment)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn what_is_pushed_is_listed_once() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("a/b");
        assert!(list(&queue).unwrap().is_empty());
        push(&queue, &attachment("c2")).unwrap();
        push(&queue, &attachment("c1")).unwrap();
        push(&queue, &attachment("c1")).unwrap();
        let ids: Vec<String> =
            list(&queue).unwrap().into_iter().map(|(_, a)| a.unwrap().container_id).collect();
        assert_eq!(ids, ["c1", "c2"]);
        assert_eq!(fs::read_dir(&queue).unwrap().count(), 2);
    }

    #[test]
    fn tricks_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", dir.path().join("a.json")).unwrap();
        fs::write(dir.path().join("b.json"), r#"{"container_id":"../../x","ifname":"eth0"}"#).unwrap();
        fs::write(dir.path().join("c.json"), "x".repeat(5000)).unwrap();
        fs::create_dir(dir.path().join("d.json")).unwrap();
        fs::write(dir.path().join("e.tmp"), "{}").unwrap();
        let found = list(dir.path()).unwrap();
        assert_eq!(found.len(), 4);
        assert!(matches!(found[0].1, Err(EntryError::NotAFile)));
        assert!(matches!(found[1].1, Err(EntryError::Name(_))));
        assert!(matches!(found[2].1, Err(EntryError::TooLong)));
        assert!(matches!(found[3].1, Err(EntryError::NotAFile)));
    }
}
