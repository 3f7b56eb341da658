//! Whether a pod's requests pass: by what the client sees, and by what the datapath counts where it must stop them.

use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::Pod;

use crate::{
    Scope, eventually,
    machine::{self, machines},
};

/// So many requests in a row have the same fate.
const TRIES: u64 = 3;
/// Within this time a policy holds everywhere.
const REACHED: Duration = Duration::from_secs(30);
/// How long a request waits that shall be answered, in milliseconds.
const PATIENCE: &str = "2000";
/// How long a request waits that shall not be. A slow machine can delay one so long; it cannot count drops.
const IMPATIENCE: &str = "800";
/// The reason under which a policy's drops are counted.
const POLICY: &str = "policy-denied";

/// The node whose datapath must stop something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: String,
}

impl Guard {
    /// How many packets it has dropped for this reason, as its metrics say.
    pub fn dropped(&self, reason: &str) -> anyhow::Result<u64> {
        let name = format!("tombolo_dropped_packets_total{{reason=\"{reason}\"}}");
        Ok(self.metric(&name)?.unwrap_or(0.0) as u64)
    }

    /// A metric of its agent, by its full name with labels; none before it was ever counted.
    pub fn metric(&self, name: &str) -> anyhow::Result<Option<f64>> {
        let script =
            "exec 3<>/dev/tcp/127.0.0.1/9964; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
        let text = machine::run(&machines(&self.cluster)?, &self.node, &["bash", "-c", script])?;
        ensure!(text.contains("tombolo_endpoints "), "no metrics: {text}");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|value| value.parse().with_context(|| format!("{name} is {value:?}"))).transpose()
    }
}

impl Scope {
    /// The node that a pod is on.
    pub async fn guard(&self, pod: &str) -> anyhow::Result<Guard> {
        let node = self.api::<Pod>().get(pod).await?.spec.and_then(|spec| spec.node_name);
        Ok(Guard { cluster: self.cluster.name.clone(), node: node.context("the pod is on no node")? })
    }

    /// Waits until three requests of a pod in a row are answered, at each of these URLs.
    pub async fn allowed(&self, client: &str, urls: &[String]) -> anyhow::Result<()> {
        let cluster = &self.cluster.name;
        for url in urls {
            eventually(REACHED, || async {
                let failed = self.failures(client, url, PATIENCE).await?;
                ensure!(failed == 0, "{client} of {cluster} and {url}: {failed} of {TRIES} requests failed");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until three requests of a pod in a row get no answer, at each of these URLs, and `guard` has dropped as many
    /// packets by policy meanwhile. Tests that run beside this one may have added to these drops.
    pub async fn denied(&self, client: &str, urls: &[String], guard: &Guard) -> anyhow::Result<()> {
        let cluster = &self.cluster.name;
        for url in urls {
            eventually(REACHED, || async {
                let before = guard.dropped(POLICY)?;
                let failed = self.failures(client, url, IMPATIENCE).await?;
                ensure!(
                    failed == TRIES,
                    "{client} of {cluster} and {url}: {failed} of {TRIES} requests failed"
                );
                let dropped = guard.dropped(POLICY)?.saturating_sub(before);
                ensure!(
                    dropped >= TRIES,
                    "{client} of {cluster} and {url}: {guard:?} counted {dropped} drops"
                );
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// How many of three requests got no answer, each within `timeout` milliseconds.
    async fn failures(&self, client: &str, url: &str, timeout: &str) -> anyhow::Result<u64> {
        let tries = TRIES.to_string();
        let out = self.exec(client, &["get", url, "-n", &tries, "--timeout", timeout]).await?;
        let total =
            out.stdout.lines().find_map(|line| line.strip_prefix("total requests=")?.split_once(" failed="));
        let (requests, failed) = total.with_context(|| format!("{client} printed no total: {out:?}"))?;
        ensure!(requests == tries, "{client} made {requests} requests");
        failed.trim().parse().context("the total is no number")
    }
}
