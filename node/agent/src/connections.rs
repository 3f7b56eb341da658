//! Counts the connections of each pod, so that none takes the room of others, and says before there is none left.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::watch;
use tombolo_abi::{Account, PodConnections, PodKey};
use tombolo_loader::{Maps, Table, TableError};
use tombolo_node_core::{
    connections::{Charged, Count, SHORT, count},
    endpoints::Endpoints,
};

use crate::clock;

/// How often the entries are looked through.
const AGAIN: Duration = Duration::from_secs(10);

/// How many connections pods may have, and how many they have.
#[derive(Debug)]
pub struct Connections {
    /// How many each may have; 0 for as many as there is room.
    pub limit: u32,
    count: watch::Sender<Count>,
}

impl Connections {
    /// None are there yet.
    pub fn new(limit: u32) -> Self {
        Self { limit, count: watch::Sender::default() }
    }

    /// As it was when the entries were looked through last.
    pub fn count(&self) -> Count {
        self.count.borrow().clone()
    }

    /// What will soon be refused or end, and what to do. `endpoints` are the pods of this node.
    pub fn problems(&self, endpoints: &Endpoints) -> Vec<String> {
        problems(&self.count(), self.limit, endpoints)
    }

    /// Looks through the entries again and again. A failure is logged, and tried again.
    pub async fn watch(self: Arc<Self>, maps: Maps) -> io::Result<()> {
        loop {
            let maps = maps.clone();
            match tokio::task::spawn_blocking(move || pass(&maps)).await? {
                Ok(count) => _ = self.count.send_replace(count),
                Err(e) => tracing::warn!(error = %e, "cannot count the connections of pods"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Removes what has expired, counts the rest, and tells the datapath. What is opened in between is missing for one pass. Of what
/// the datapath and this pass have counted, the greater is returned: the datapath refuses by its own.
fn pass(maps: &Maps) -> Result<Count, TableError> {
    let (mut flows, mut of_pods) = (maps.flow()?, maps.pod_connections()?);
    let now = clock::since_boot();
    let (mut counted, expired) = count(&flows.entries()?, now);
    // A packet may have come since.
    flows.delete_unchanged(&expired)?;
    let before = of_pods.entries()?;
    for (pod, _) in before.iter().filter(|(pod, _)| !counted.by_pod.contains_key(&pod.endpoint())) {
        of_pods.delete(pod)?;
    }
    for (pod, now_charged) in &counted.by_pod {
        of_pods.upsert(
            &PodKey::new(*pod),
            &PodConnections::new(now_charged.opened, now_charged.accepted, now),
        )?;
    }
    for (pod, value) in before {
        let charged =
            Charged { opened: value.count(Account::Opened), accepted: value.count(Account::Accepted) };
        let most = counted.by_pod.entry(pod.endpoint()).or_default();
        *most = most.greater(charged);
    }
    Ok(counted)
}

fn problems(count: &Count, limit: u32, endpoints: &Endpoints) -> Vec<String> {
    let mut problems = Vec::new();
    let short = |(_, _, has): &(u32, Account, u32)| limit != 0 && f64::from(*has) >= f64::from(limit) * SHORT;
    if let Some((pod, account, has)) = count.busiest().filter(short) {
        let name = endpoints.get(pod).map_or_else(
            || "a pod that is gone".to_owned(),
            |endpoint| format!("pod {}/{}", endpoint.wiring.pod.namespace, endpoint.wiring.pod.name),
        );
        let what = match account {
            Account::Opened => "open",
            Account::Accepted => "accept from outside of the node",
        };
        problems.push(format!(
            "{name} has {has} of the {limit} connections that a pod may {what}: when it has all, new ones are dropped \
             (connection-limit); let them be reused, or raise connectionsPerPod",
        ));
    }
    if count.part_of_entries() >= SHORT {
        problems.push(format!(
            "{} entries fill {:.0} % of the map FLOW: when it is full, connections that were silent longest end; spread the \
             pods over more nodes",
            count.entries,
            count.part_of_entries() * 100.0,
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_problem_comes_before_the_limit_and_names_the_remedy() {
        let at = |has, limit| {
            let charged = Charged { opened: 1, accepted: has };
            let count = Count { by_pod: BTreeMap::from([(7, charged)]), entries: has };
            problems(&count, limit, &Endpoints::default())
        };
        assert_eq!(at(79, 100), [""; 0]);
        assert_eq!(at(79, 0), [""; 0]);
        let found = at(80, 100).concat();
        for word in ["80 of the 100 connections", "accept", "connection-limit", "connectionsPerPod"] {
            assert!(found.contains(word), "{found}");
        }
        assert!(at(250_000, 0).concat().contains("95 % of the map FLOW"), "{:?}", at(250_000, 0));
    }
}
