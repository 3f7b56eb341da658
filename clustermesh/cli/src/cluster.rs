//! Which cluster a command speaks to: the kubeconfig and context, as kubectl has them.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Flags that choose the cluster.
#[derive(clap::Args, Clone)]
pub struct ClusterArgs {
    /// The kubeconfig file [default: $KUBECONFIG, then ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig [default: its current context]
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The namespace that tombolo runs in
    #[arg(long, global = true, default_value = "tombolo-system")]
    pub namespace: String,
}

impl ClusterArgs {
    /// The same flags for another context.
    pub fn with_context(&self, context: &str) -> Self {
        Self { context: Some(context.to_owned()), ..self.clone() }
    }

    /// A client of the chosen cluster.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let config = match &self.kubeconfig {
            Some(path) => {
                // The error's text has its causes already.
                let file = Kubeconfig::read_from(path).map_err(|e| {
                    anyhow!(
                        "cannot read the kubeconfig {}: {e}; name another by --kubeconfig",
                        path.display()
                    )
                })?;
                Config::from_custom_kubeconfig(file, &options).await
            }
            None => Config::from_kubeconfig(&options).await,
        };
        let config = config.with_context(|| match &self.context {
            Some(context) => format!(
                "the kubeconfig has no usable context {context:?}: `kubectl config get-contexts` lists those it has"
            ),
            None => "no usable kubeconfig: name one by --kubeconfig or $KUBECONFIG".to_owned(),
        })?;
        Client::try_from(config).context("cannot make a client from the kubeconfig")
    }

    /// The flags that make kubectl or helm speak to the same cluster; helm calls the context `--kube-context`.
    pub fn helm_flags(&self) -> Vec<String> {
        let mut flags = vec!["--namespace".to_owned(), self.namespace.clone()];
        if let Some(path) = &self.kubeconfig {
            flags.extend(["--kubeconfig".to_owned(), path.display().to_string()]);
        }
        if let Some(context) = &self.context {
            flags.extend(["--kube-context".to_owned(), context.clone()]);
        }
        flags
    }
}
