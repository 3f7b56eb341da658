//! Where a playground keeps its files: all of them below one directory.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::{Error, Result};

/// Directories that a node has of its own: files of the playground below them would vanish in the node.
const HIDDEN_IN_NODES: [&str; 5] = ["/etc", "/opt", "/run", "/var", "/sys"];

/// The files of a playground.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout in `TOMBOLO_PLAYGROUND_DIR`, or else in `target/playground` of the checkout.
    pub fn from_environment() -> Self {
        let root = match env::var_os("TOMBOLO_PLAYGROUND_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => checkout().join("target/playground"),
        };
        Self { root }
    }

    /// The layout in this directory, which need not exist; it is removed when the playground is ended.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory that holds everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Refuses a directory that nodes could not see.
    pub fn check(&self) -> Result<()> {
        match HIDDEN_IN_NODES.iter().find(|hidden| self.root.starts_with(hidden)) {
            None => Ok(()),
            Some(hidden) => Err(Error::Invalid(format!(
                "the playground directory {} is below {hidden}, which nodes have of their own; \
                 set TOMBOLO_PLAYGROUND_DIR to a directory elsewhere",
                self.root.display()
            ))),
        }
    }

    /// Refuses a directory that no playground has made, as all that is in it is removed at the end.
    pub fn check_own(&self) -> Result<()> {
        let is_empty = match fs::read_dir(&self.root) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(Error::io("list", &self.root)(error)),
        };
        if is_empty || self.state().is_file() {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "the playground directory {} holds files that no playground has made; \
             remove them, or set TOMBOLO_PLAYGROUND_DIR to a directory that does not exist",
            self.root.display()
        )))
    }

    /// Removes everything. The state goes last, so that a removal that is cut short can be repeated.
    pub fn remove(&self) -> Result<()> {
        self.check_own()?;
        for entry in fs::read_dir(&self.root).map_err(Error::io("list", &self.root))?.flatten() {
            let path = entry.path();
            if path == self.state() {
                continue;
            }
            let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(Error::io("remove", &path))?;
        }
        fs::remove_dir_all(&self.root).map_err(Error::io("remove", &self.root))
    }

    /// The spec of what runs.
    pub fn state(&self) -> PathBuf {
        self.root.join("state.json")
    }

    /// Programs by their own names, for the PATH of nodes.
    pub fn programs(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// Image archives that every node loads.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The administrator's kubeconfig of a cluster.
    pub fn kubeconfig(&self, cluster: &str) -> PathBuf {
        self.root.join(format!("{cluster}.kubeconfig"))
    }

    /// The directory of a cluster's control plane: certificates, database, logs.
    pub fn control_plane(&self, cluster: &str) -> PathBuf {
        self.root.join(cluster).join("control-plane")
    }

    /// The directory of a node.
    pub fn node(&self, cluster: &str, node: &str) -> PathBuf {
        self.root.join(cluster).join(node)
    }

    /// The directory of the underlay router.
    pub fn underlay(&self) -> PathBuf {
        self.root.join("underlay")
    }
}

/// The root of the checkout for which this program runs: cargo says it, or it is where the program lies. A program may
/// have been compiled in another one, as checkouts share their build directory.
pub fn checkout() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let places = manifest.into_iter().chain(env::current_exe());
    let root = |place: PathBuf| {
        place.ancestors().find(|dir| dir.join("Cargo.lock").is_file()).map(Path::to_path_buf)
    };
    places.filter_map(root).next().unwrap_or_else(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
    })
}

/// Creates a directory and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create the directory", path))
}

/// Writes a file whole, creating its directory.
pub fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<()> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    fs::write(path, text).map_err(Error::io("write", path))
}

/// Reads a text file whole.
pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_playground_made_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::at(directory.path().join("home"));
        layout.check_own().unwrap();
        write(&layout.root().join("letters/one"), "precious").unwrap();
        assert!(layout.check_own().unwrap_err().to_string().contains("no playground has made"));
        assert!(layout.remove().is_err());
        assert!(layout.root().join("letters/one").exists());
        write(&layout.state(), "{}").unwrap();
        layout.remove().unwrap();
        assert!(!layout.root().exists());
    }
}
