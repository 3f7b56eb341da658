//! Where a playground keeps its files: all of them below one directory.

use std::path::{Path, PathBuf};
use std::{env, fs};

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
