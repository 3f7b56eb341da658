//! While another replica leads: learns what that one knows of other clusters.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use kube::Client;
use tokio::time::sleep;
use tombolo_mesh_core::trust::SpiffeId;
use tombolo_mesh_net::{
    mirror::Standby,
    socket::ANY,
    tls::{Credentials, TrustStore},
    transport::{Dialer, Stats},
};
use tracing::debug;

use crate::{authority::Keeper, config::Config, leader};

/// Between attempts.
const RETRY: Duration = Duration::from_secs(2);
/// How long the certificate that is shown is valid; each session begins with a fresh one.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Keeps `standby` up to date until dropped. What it knows stays when a session ends.
pub async fn follow(client: &Client, config: &Config, keeper: &Keeper, standby: &mut Standby) -> Infallible {
    let stats = Arc::<Stats>::default();
    loop {
        if let Err(error) = once(client, config, keeper, standby, &stats).await {
            debug!(error = %format!("{error:#}"), "the leading replica is not mirrored");
        }
        sleep(RETRY).await;
    }
}

async fn once(
    client: &Client,
    config: &Config,
    keeper: &Keeper,
    standby: &mut Standby,
    stats: &Arc<Stats>,
) -> Result<()> {
    let leader = leader::address(client, &config.namespace).await?.context("no replica leads")?;
    let authority = keeper.read().await?;
    let trust = TrustStore::new();
    trust.set_pem(&config.cluster_name, authority.bundle_pem())?;
    let credentials = Credentials::none();
    let id = SpiffeId::Daemon(config.cluster_name.clone());
    authority.introduce(&credentials, &id, SystemTime::now(), LIFETIME)?;
    let dialer = Dialer::bind(ANY, credentials, trust)?;
    Ok(standby.follow(&dialer, leader, stats).await?)
}
