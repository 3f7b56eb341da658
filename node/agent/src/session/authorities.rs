//! The authorities that vouch for the daemon, as the mounted file has them: they change while a new one takes over.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::sync::watch;
use tombolo_mesh_core::trust::Pin;
use tombolo_mesh_net::tls::TrustStore;
use tombolo_model::ClusterName;

/// How often the file is read; kubelet itself takes up to two minutes to bring a new one.
const LOOK: Duration = Duration::from_secs(5);

/// Has what a file says hold in a store.
pub(super) struct Authorities {
    cluster: ClusterName,
    file: PathBuf,
    trust: Arc<TrustStore>,
    bundle: String,
    pins: watch::Sender<Vec<Pin>>,
}

impl Authorities {
    /// Of the file as it is now.
    pub(super) fn read(cluster: ClusterName, file: PathBuf, trust: Arc<TrustStore>) -> anyhow::Result<Self> {
        let mut authorities =
            Self { cluster, file, trust, bundle: String::new(), pins: watch::Sender::default() };
        authorities.look()?;
        Ok(authorities)
    }

    /// The pins of those that count; the first one signs.
    pub(super) fn pins(&self) -> watch::Receiver<Vec<Pin>> {
        self.pins.subscribe()
    }

    /// Follows the file. What cannot be read changes nothing.
    pub(super) async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.look() {
                tracing::warn!(error = %format!("{error:#}"), "the cluster's CA stays as it was");
            }
        }
    }

    fn look(&mut self) -> anyhow::Result<()> {
        let bundle = fs::read_to_string(&self.file)
            .with_context(|| format!("the cluster's CA {:?} cannot be read", self.file))?;
        if bundle == self.bundle {
            return Ok(());
        }
        let pins = self.trust.set_pem(&self.cluster, &bundle)?;
        tracing::info!(?pins, "the cluster's CA");
        self.bundle = bundle;
        self.pins.send_replace(pins);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tombolo_mesh_net::tls::CertificateAuthority;

    use super::*;

    #[test]
    fn a_new_bundle_holds_and_a_damaged_one_changes_nothing() {
        let cluster: ClusterName = "east".parse().unwrap();
        let make = || CertificateAuthority::generate(&cluster, SystemTime::now(), LOOK * 1000).unwrap();
        let (old, new) = (make(), make());
        let (old_pin, new_pin) = (old.pin().unwrap(), new.pin().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca.crt");
        fs::write(&file, old.bundle_pem()).unwrap();
        let mut authorities = Authorities::read(cluster.clone(), file.clone(), TrustStore::new()).unwrap();
        let pins = authorities.pins();
        assert_eq!(*pins.borrow(), [old_pin]);
        fs::write(&file, format!("{}{}", new.bundle_pem(), old.bundle_pem())).unwrap();
        authorities.look().unwrap();
        assert_eq!(*pins.borrow(), [new_pin, old_pin]);
        fs::write(&file, &new.bundle_pem()[..100]).unwrap();
        authorities.look().unwrap_err();
        assert_eq!(*pins.borrow(), [new_pin, old_pin]);
    }
}
