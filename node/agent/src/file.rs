//! Files that are either the old or the new ones, whatever happens in between.

use std::{
    fs::{self, File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use tempfile::NamedTempFile;

/// Replaces the file at `path`, whenever the process is killed. Its directory is made if need be.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    prepare(path, content, mode)?.persist(path)?;
    Ok(())
}

/// As [`write_atomically`], even if the machine loses its power: on disk when this returns.
pub fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let file = prepare(path, content, mode)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(directory(path)?)?.sync_all()
}

/// The content under another name, which goes away when it is dropped.
fn prepare(path: &Path, content: &[u8], mode: u32) -> io::Result<NamedTempFile> {
    let dir = directory(path)?;
    fs::create_dir_all(dir)?;
    let mut file = NamedTempFile::with_prefix_in(".tombolo-", dir)?;
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

fn directory(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no directory"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn content_and_mode_are_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/state");
        for write in [write_atomically, write_durably] {
            write(&path, b"one", 0o644).unwrap();
            let mut before = File::open(&path).unwrap();
            write(&path, b"two", 0o600).unwrap();
            let mut old = String::new();
            before.read_to_string(&mut old).unwrap();
            assert_eq!(old, "one", "who reads meanwhile has the old file, whole");
            assert_eq!(fs::read(&path).unwrap(), b"two");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read_dir(dir.path().join("a")).unwrap().count(), 1);
        }
    }
}
