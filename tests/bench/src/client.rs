//! The API server over one connection that stays open: kubectl makes a new one per call and sends five requests a
//! second.

use std::{io, path::Path};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// What a client runs on.
pub fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A client with the rights of a kubeconfig.
pub async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let (file, options) = (Kubeconfig::read_from(kubeconfig)?, KubeConfigOptions::default());
    Ok(Client::try_from(Config::from_custom_kubeconfig(file, &options).await?)?)
}
