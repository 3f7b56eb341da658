//! A cluster of the playground, and a namespace in it that a test owns.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tombolo_playground::layout::checkout;

use crate::eventually;

/// The namespace that tombolo is installed into.
pub const SYSTEM: &str = "tombolo-system";

/// How long a new namespace may be without an account for its pods.
const ACCOUNT: Duration = Duration::from_secs(60);

/// A cluster and a client of its API server.
#[derive(Clone)]
pub struct Cluster {
    /// Its name in the playground and in the mesh.
    pub name: String,
    /// Its client, with all rights.
    pub client: Client,
    config: Config,
}

impl Cluster {
    /// The running cluster of this name, from the kubeconfig that the playground left in `target`.
    pub async fn attach(name: &str) -> anyhow::Result<Self> {
        let path = checkout().join(format!("target/playground/{name}.kubeconfig"));
        let file = Kubeconfig::read_from(&path).with_context(|| {
            format!("no playground: {} is missing; run `make playground`", path.display())
        })?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Self { name: name.to_owned(), client: Client::try_from(config.clone())?, config })
    }

    /// The names of its nodes, in order.
    pub async fn nodes(&self) -> anyhow::Result<Vec<String>> {
        let list = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await?;
        let mut names: Vec<_> = list.iter().map(ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }

    /// Lets the cluster's DNS begin anew: pods that ran before the network plugin was exchanged have lost their network.
    pub async fn renew_dns(&self) -> anyhow::Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "kube-system");
        let dns = ListParams::default().labels("k8s-app=kube-dns");
        pods.delete_collection(&DeleteParams::default().grace_period(0), &dns).await?;
        Ok(())
    }

    /// Makes a namespace with this label value under `team`; its name begins with `prefix` and is used once.
    pub async fn scope(&self, prefix: &str) -> anyhow::Result<Scope> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.named_scope(&name).await
    }

    /// Makes the namespace of exactly this name, for services that are the same in several clusters.
    pub async fn named_scope(&self, name: &str) -> anyhow::Result<Scope> {
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": name, "labels": {"team": name}}}))?;
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        let scope = Scope { cluster: self.clone(), namespace: name.to_owned() };
        // No pod is admitted without it, and controllers that lost their API server come back late.
        let accounts = scope.api::<ServiceAccount>();
        eventually(ACCOUNT, || async { Ok(accounts.get("default").await?) }).await?;
        Ok(scope)
    }
}

/// A namespace that goes away with the test, also when it panics.
pub struct Scope {
    /// Where it is.
    pub cluster: Cluster,
    /// Its name.
    pub namespace: String,
}

impl Scope {
    /// Resources of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let (config, name) = (self.cluster.config.clone(), self.namespace.clone());
        // A runtime and a client of its own: those of the test do nothing while it is here.
        let deleted = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            runtime.block_on(async {
                Api::<Namespace>::all(Client::try_from(config)?).delete(&name, &params).await
            })?;
            Ok::<_, anyhow::Error>(())
        });
        let _ = deleted.join();
    }
}
