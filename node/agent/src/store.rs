//! The endpoints of this node in a file: what a restarted agent knows of the pods it has wired up.
//!
//! The file is never synced to a disk: a killed agent leaves it as it was, and a reboot takes the pods along.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tombolo_node_core::endpoints::Endpoints;

use crate::file;

/// The file, inside the runtime directory.
const FILE: &str = "endpoints.json";

/// Where the endpoints are kept.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

/// Why the endpoints cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The filesystem.
    #[error("the endpoint state {path:?} cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Content.
    #[error(
        "the endpoint state {path:?} is damaged: {source}; move it away, restart the agent, and delete this node's \
         pods so that they are made anew"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Store {
    /// The store in the agent's runtime directory.
    pub fn new(runtime_dir: &Path) -> Self {
        Self { path: runtime_dir.join(FILE) }
    }

    /// What was saved last; nothing before the first time.
    pub fn load(&self) -> Result<Endpoints, StoreError> {
        let text = match fs::read(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Endpoints::default()),
            Err(source) => return Err(StoreError::Io { path: self.path.clone(), source }),
            Ok(text) => text,
        };
        serde_json::from_slice(&text)
            .map_err(|source| StoreError::Damaged { path: self.path.clone(), source })
    }

    /// Saves all; whoever comes after the caller finds it when this returns.
    pub fn save(&self, endpoints: &Endpoints) -> Result<(), StoreError> {
        let io = |source| StoreError::Io { path: self.path.clone(), source };
        let text = serde_json::to_vec(endpoints).map_err(|e| io(e.into()))?;
        file::write_atomically(&self.path, &text, 0o600).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use tombolo_model::Identity;
    use tombolo_node_core::endpoints::{AttachmentId, PodRef, Wiring};

    use super::*;

    #[test]
    fn nothing_then_something_then_damage() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        assert_eq!(store.load().unwrap(), Endpoints::default());
        let mut endpoints = Endpoints::default();
        let wiring = Wiring {
            attachment: AttachmentId { container: "c".into(), interface: "eth0".into() },
            pod: PodRef { namespace: "x".into(), name: "p".into(), uid: "u".into() },
            netns: "/run/netns/p".into(),
            host_interface: "tmb1".into(),
            ifindex: 7,
            host_mac: [2; 6],
            pod_mac: [4; 6],
            addresses: vec!["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            identity: Identity::INIT,
        };
        endpoints.insert(wiring).unwrap();
        store.save(&endpoints).unwrap();
        assert_eq!(Store::new(dir.path()).load().unwrap(), endpoints);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(matches!(store.load(), Err(StoreError::Damaged { .. })));
    }
}
