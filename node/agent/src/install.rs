//! Puts the CNI plugin and its configuration in place, each atomically, the configuration only when the agent is
//! ready: from then on the runtime calls us.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use crate::file;

/// The configuration's file name; the runtime takes the first one in order of names.
const CONF: &str = "05-tombolo.conflist";

/// The plugin's file name.
const BINARY: &str = "tombolo-cni";

/// When the configuration is written again: containerd watches the directory and has been seen to miss the rename
/// that makes the file appear, and then has no network until the next event.
const AGAIN: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(10), Duration::from_secs(15)];

/// Where things go.
#[derive(Clone, Debug)]
pub struct Installer {
    /// The plugin to copy.
    pub binary: PathBuf,
    /// Where the runtime finds plugins.
    pub bin_dir: PathBuf,
    /// Where the runtime finds configurations.
    pub conf_dir: PathBuf,
    /// Where the agent listens.
    pub socket: PathBuf,
    /// Where DELs wait for the agent.
    pub del_queue: PathBuf,
}

/// A file that cannot be put in place.
#[derive(Debug, thiserror::Error)]
#[error("cannot install {path:?}: {source}")]
pub struct InstallError {
    path: PathBuf,
    source: io::Error,
}

impl Installer {
    /// Copies the plugin. A plugin that runs meanwhile keeps its own file.
    pub fn binary(&self) -> Result<(), InstallError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| InstallError { path, source }
        };
        let content = fs::read(&self.binary).map_err(failed(&self.binary))?;
        let target = self.bin_dir.join(BINARY);
        if fs::read(&target).is_ok_and(|now| now == content) {
            return Ok(());
        }
        file::write_durably(&target, &content, 0o755).map_err(failed(&target))
    }

    /// Writes the configuration.
    pub fn configuration(&self) -> Result<(), InstallError> {
        let path = self.conf_dir.join(CONF);
        let plugin = json!({"type": BINARY, "socket": self.socket, "delQueue": self.del_queue});
        let list = json!({"cniVersion": "1.1.0", "name": "tombolo", "plugins": [plugin]});
        let text = format!("{list:#}\n");
        file::write_durably(&path, text.as_bytes(), 0o644).map_err(|source| InstallError { path, source })
    }

    /// Writes the configuration, and again a few times within half a minute.
    pub async fn keep_configuration(&self) -> Result<(), InstallError> {
        self.configuration()?;
        for wait in AGAIN {
            tokio::time::sleep(wait).await;
            self.configuration()?;
        }
        Ok(())
    }

    /// Removes both; what is gone already is no error.
    pub fn remove(&self) -> Result<(), InstallError> {
        for path in [self.conf_dir.join(CONF), self.bin_dir.join(BINARY)] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(InstallError { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn both_are_installed_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("plugin");
        fs::write(&binary, "#!").unwrap();
        let installer = Installer {
            binary,
            bin_dir: dir.path().join("bin"),
            conf_dir: dir.path().join("net.d"),
            socket: "/run/x.sock".into(),
            del_queue: "/var/q".into(),
        };
        installer.binary().unwrap();
        installer.configuration().unwrap();
        let installed = dir.path().join("bin/tombolo-cni");
        assert_eq!(fs::metadata(&installed).unwrap().permissions().mode() & 0o777, 0o755);
        let text = fs::read(dir.path().join("net.d/05-tombolo.conflist")).unwrap();
        let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
        // What the runtime makes of the list must be what the plugin accepts.
        let mut config = list["plugins"][0].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["name"] = list["name"].clone();
        let config = tombolo_cni::config::Config::parse(config.to_string().as_bytes()).unwrap();
        assert_eq!(config.refuse_unknown(), Ok(()));
        assert_eq!(config.socket, PathBuf::from("/run/x.sock"));
        // The plugin of the next release takes the place of this one.
        fs::write(&installer.binary, "#!next").unwrap();
        installer.binary().unwrap();
        assert_eq!(fs::read(&installed).unwrap(), b"#!next");
        installer.remove().unwrap();
        installer.remove().unwrap();
        assert!(!installed.exists() && !dir.path().join("net.d/05-tombolo.conflist").exists());
    }
}
