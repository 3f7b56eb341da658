//! One service over several clusters, and who answers it.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::ensure;

use crate::{Cluster, Scope, eventually, url};

/// The annotation of a service that is one over all clusters that have it.
pub const GLOBAL: (&str, &str) = ("service.tombolo.io/global", "true");
const LIMIT: Duration = Duration::from_secs(30);

/// A global service `web` of the same namespace in several clusters, with pods that say in which cluster they are, and
/// a pod `client` in each.
pub struct Web {
    /// The namespace of each cluster, in the order they were named.
    pub scopes: Vec<Scope>,
    /// The service's addresses in each of these clusters.
    addresses: Vec<Vec<IpAddr>>,
}

impl Web {
    /// Makes it with two pods in each of these clusters.
    pub async fn start(namespace: &str, clusters: &[&str]) -> anyhow::Result<Self> {
        let (mut scopes, mut addresses) = (Vec::new(), Vec::new());
        for cluster in clusters {
            let scope = Cluster::attach(cluster).await?.named_scope(namespace).await?;
            let args = ["http", "--port", "8080", "--name", cluster];
            scope.deployment("web", 2, &args).await?;
            addresses.push(scope.service("web", &[("http", "TCP", 8080)], &[GLOBAL]).await?);
            scope.pod("client", None, &["pause"]).await?;
            scopes.push(scope);
        }
        Ok(Self { scopes, addresses })
    }

    /// Takes the clusters from number `at` on into one of their own.
    pub fn split_off(&mut self, at: usize) -> Self {
        Self { scopes: self.scopes.split_off(at), addresses: self.addresses.split_off(at) }
    }

    /// Waits until the client of every cluster is answered by exactly these clusters, by name and at each address.
    pub async fn answered_by(&self, clusters: &[&str]) -> anyhow::Result<()> {
        for (scope, addresses) in self.scopes.iter().zip(&self.addresses) {
            let urls = addresses.iter().map(|&address| url(address, 8080));
            for url in urls.chain([web_url(scope)]) {
                eventually(LIMIT, || async {
                    let by_cluster = answers_at(scope, &url, 40, Duration::from_secs(2)).await?;
                    let all = clusters.iter().all(|name| by_cluster.contains_key(*name));
                    let exact = all && by_cluster.len() == clusters.len();
                    ensure!(exact, "{} at {url}: {by_cluster:?}", scope.cluster.name);
                    Ok(())
                })
                .await?;
            }
        }
        Ok(())
    }
}

/// Where the service `web` of a namespace is.
pub fn web_url(scope: &Scope) -> String {
    format!("http://web.{}.svc.cluster.local:8080/", scope.namespace)
}

/// Asks the service `web` so many times from the pod `client`, each time with this patience: how often each name
/// answered. A single failure is an error.
pub async fn answers(scope: &Scope, n: u32, timeout: Duration) -> anyhow::Result<BTreeMap<String, usize>> {
    answers_at(scope, &web_url(scope), n, timeout).await
}

/// [`answers`] at another URL.
async fn answers_at(
    scope: &Scope,
    url: &str,
    n: u32,
    timeout: Duration,
) -> anyhow::Result<BTreeMap<String, usize>> {
    let (n, timeout) = (n.to_string(), timeout.as_millis().to_string());
    let out = scope.exec("client", &["get", url, "-n", &n, "--timeout", &timeout]).await?.ok()?;
    let mut by_name = BTreeMap::new();
    for body in out.lines().filter_map(|line| line.split_once("body=")).map(|(_, body)| body) {
        let name = body.split_whitespace().find_map(|w| w.strip_prefix("name=")).unwrap_or(body).to_owned();
        *by_name.entry(name).or_default() += 1;
    }
    Ok(by_name)
}
