//! The mesh as a cluster's `tombolo mesh status` shows it.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tombolo_model::{Address, MemberStatus, MeshStatus, Prefix};
use tombolo_playground::address::{ClusterAddresses, Family};

use crate::{command::succeeds, eventually};

const LIMIT: Duration = Duration::from_secs(90);

/// What a cluster's `tombolo mesh status` says.
pub fn mesh_status(cluster: &str) -> anyhow::Result<MeshStatus> {
    let said = succeeds(cluster, &["mesh", "status", "-o", "json"])?;
    serde_json::from_str(&said).with_context(|| format!("the status of {cluster} cannot be read: {said}"))
}

/// How a cluster sees one of the members.
pub fn member(seen_from: &str, of: &str) -> anyhow::Result<MemberStatus> {
    let members = mesh_status(seen_from)?.members;
    let found = members.into_iter().find(|member| member.name.as_str() == of);
    found.with_context(|| format!("{of} is no member for {seen_from}"))
}

/// Waits until a cluster sees exactly these members, all of them active and connected.
pub async fn members(cluster: &str, names: &[&str]) -> anyhow::Result<()> {
    eventually(LIMIT, || async {
        let status = mesh_status(cluster)?;
        let well = |m: &&MemberStatus| m.state == "active" && m.connected && m.synced;
        let mut found: Vec<_> = status.members.iter().filter(well).map(|m| m.name.as_str()).collect();
        let mut wanted = names.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        ensure!(status.members.len() == names.len() && found == wanted, "{cluster} sees {status:?}");
        Ok(())
    })
    .await
}

/// Waits until a cluster has a problem with all of these words.
pub async fn problem(cluster: &str, words: &[&str]) -> anyhow::Result<()> {
    eventually(LIMIT, || async {
        let problems = mesh_status(cluster)?.problems;
        let said = problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)));
        ensure!(said, "{cluster} says {problems:?}, wanted {words:?}");
        Ok(())
    })
    .await
}

/// Waits until nothing is wrong in the mesh for a cluster.
pub async fn no_problem(cluster: &str) -> anyhow::Result<()> {
    eventually(LIMIT, || async {
        let problems = mesh_status(cluster)?.problems;
        ensure!(problems.is_empty(), "{cluster} says {problems:?}");
        Ok(())
    })
    .await
}

/// How many addresses of pods and nodes of the playground's cluster number `index` (from 0) the nodes of another one
/// have in their maps.
pub fn addresses_of(index: usize, seen_from: &str) -> anyhow::Result<usize> {
    let list: Value = serde_json::from_str(&succeeds(seen_from, &["bpf", "address", "list", "-o", "json"])?)?;
    let entries = list.as_object().into_iter().flat_map(|nodes| nodes.values()).filter_map(Value::as_array);
    let keys = entries.flatten().filter_map(|entry| entry["key"].as_str()?.parse::<Address>().ok());
    let plans = [Family::V4, Family::V6].map(|family| ClusterAddresses::new(index, family));
    let ranges = plans.iter().flat_map(|plan| [plan.pods(), plan.segment()]);
    let ranges: Vec<Prefix> = ranges.map(|range| range.parse()).collect::<Result<_, _>>()?;
    Ok(keys.filter(|key| ranges.iter().any(|range| range.contains(*key))).count())
}
