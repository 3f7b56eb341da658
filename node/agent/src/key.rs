//! The tunnel's private key: made on the node at the first start, and never leaving it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rand::TryRngCore;
use tombolo_node_core::tunnel::PublicKey;
use x25519_dalek::StaticSecret;

use crate::{
    file,
    uapi::{PrivateKey, hex, unhex},
};

/// The file, inside the state directory.
const FILE: &str = "wireguard.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Disk, or the source of randomness.
    #[error("the tunnel key {path:?} cannot be used: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Content.
    #[error("the tunnel key {0:?} is damaged: remove the file and restart the agent, which makes a new key")]
    Damaged(PathBuf),
    /// Mode.
    #[error(
        "the tunnel key {path:?} can be read by others (mode {mode:o}): remove it, and restart the agent"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// The key in the agent's state directory, made if there is none.
pub fn load_or_create(state_dir: &Path) -> Result<PrivateKey, KeyError> {
    let path = state_dir.join(FILE);
    let io = |source| KeyError::Io { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mode = fs::metadata(&path).map_err(io)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(KeyError::Exposed { path, mode });
            }
            unhex(text.trim()).map(PrivateKey).ok_or(KeyError::Damaged(path))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; 32];
            rand::rngs::OsRng.try_fill_bytes(&mut bytes).map_err(|e| io(io::Error::other(e.to_string())))?;
            // As it stands in a key file of `wg genkey` (RFC 7748, section 5): equal to what the tunnel reports.
            let [first, .., last] = &mut bytes;
            *first &= 248;
            *last = (*last & 127) | 64;
            file::write_durably(&path, hex(&bytes).as_bytes(), 0o600).map_err(io)?;
            Ok(PrivateKey(bytes))
        }
        Err(e) => Err(io(e)),
    }
}

/// The public half.
pub fn public(key: &PrivateKey) -> PublicKey {
    x25519_dalek::PublicKey::from(&StaticSecret::from(key.0)).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let key = load_or_create(dir.path()).unwrap();
        assert_eq!(load_or_create(dir.path()).unwrap(), key);
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load_or_create(dir.path()), Err(KeyError::Exposed { mode: 0o644, .. })));
        fs::remove_file(&path).unwrap();
        file::write_durably(&path, b"short", 0o600).unwrap();
        assert!(matches!(load_or_create(dir.path()), Err(KeyError::Damaged(_))));
    }

    #[test]
    fn the_public_half_is_what_wg_pubkey_prints() {
        let key =
            PrivateKey(unhex("0101010101010101010101010101010101010101010101010101010101010141").unwrap());
        assert_eq!(hex(&public(&key)), "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209");
    }
}
