//! The mesh as this cluster sees it, for `tombolo mesh status`.

use std::collections::BTreeMap;

use tombolo_mesh_core::membership::{ClusterRecord, ClusterState, MemberId};
use tombolo_mesh_net::{peer::PeerStatus, raft::ProposeError, tls::pin_of};
use tombolo_model::{ClusterId, Kind, MemberStatus, MeshStatus};

use super::{Known, Mesh, NotRunning};
use crate::status::name;

/// How many records of each kind are known of each cluster.
type Counts = BTreeMap<ClusterId, BTreeMap<Kind, u64>>;

impl Mesh {
    /// The state now.
    ///
    /// # Errors
    /// There is no member that runs.
    pub fn status(&self) -> Result<MeshStatus, NotRunning> {
        let Known { state, status, .. } = self.membership().and_then(|_| self.known())?;
        let counts = self.0.parts.exporter.counts();
        let local = &self.0.config.local;
        let cluster_of = |member: MemberId| state.clusters.get(&member.cluster()?);
        let members: Vec<_> = state
            .clusters
            .values()
            .map(|record| self.member(record, status.conf.voters.contains(&record.member().get()), &counts))
            .collect();
        let mut problems: Vec<_> = self.0.problems.borrow().record.iter().cloned().collect();
        if status.leader.is_none() {
            problems.push(ProposeError::NoQuorum.to_string());
        }
        for record in state.clusters.values().filter(|c| c.id != local.cluster_id) {
            problems.extend(self.problem(record));
        }
        if state.clusters.get(&local.cluster_id).is_some_and(|c| c.state == ClusterState::Lost) {
            problems.push(
                "the mesh was recovered without this cluster: run `tombolo disconnect` here, then join again"
                    .to_owned(),
            );
        }
        Ok(MeshStatus {
            cluster: local.cluster.clone(),
            id: local.cluster_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mesh: state.mesh.to_string(),
            leader: status.leader.and_then(cluster_of).map(|record| record.name.clone()),
            term: status.term,
            applied: status.applied,
            members,
            problems,
        })
    }

    fn member(&self, record: &ClusterRecord, voter: bool, counts: &Counts) -> MemberStatus {
        let own = record.id == self.0.config.local.cluster_id;
        let (peer, complete) = self.0.peers.status(record.id).unwrap_or_default();
        let counts = counts.get(&record.id).into_iter().flatten();
        let refused = peer.refusals.iter().map(|(reason, n)| (reason.as_str().to_owned(), *n));
        MemberStatus {
            name: record.name.clone(),
            id: record.id,
            state: state_name(record.state).to_owned(),
            voter,
            incarnation: record.incarnation,
            ca_pins: record.ca.iter().map(|der| pin(der)).collect(),
            endpoints: record.endpoints.iter().map(ToString::to_string).collect(),
            pod_prefixes: record.pod_prefixes.clone(),
            connected: own || peer.up,
            synced: complete || (own && self.0.parts.nodes.borrow().is_some()),
            heard_ms: heard_ms(&peer),
            // Known only when nothing is missing: revisions have no time until they arrive.
            lag_ms: peer.lag.filter(|lag| *lag == 0),
            counts: counts.map(|(kind, n)| (name(*kind).to_owned(), *n)).collect(),
            refused: refused.collect(),
        }
    }

    fn problem(&self, record: &ClusterRecord) -> Vec<String> {
        let name = &record.name;
        if record.state == ClusterState::Lost {
            return vec![format!("cluster {name} was given up: it must join again, or be disconnected")];
        }
        let Some((peer, _)) = self.0.peers.status(record.id) else {
            return vec![format!("cluster {name} cannot be reached: its CA certificate is not valid")];
        };
        let mut problems = Vec::new();
        if !peer.up {
            let since =
                heard_ms(&peer).map_or_else(|| "yet".to_owned(), |ms| format!("since {} s", ms / 1000));
            let why = peer.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            problems.push(format!("no session with cluster {name} {since}{why}"));
        }
        let refused: u64 = peer.refusals.values().sum();
        if refused > 0 {
            let reasons: Vec<_> = peer.refusals.keys().map(|reason| reason.as_str()).collect();
            problems.push(format!(
                "cluster {name} has announced {refused} records that were not accepted ({}): check the ranges of its \
                 nodes and pods",
                reasons.join(", ")
            ));
        }
        problems
    }
}

fn pin(der: &[u8]) -> String {
    pin_of(&der.into()).map_or_else(|error| error.to_string(), |pin| pin.to_string())
}

fn heard_ms(peer: &PeerStatus) -> Option<u64> {
    peer.heard.map(|heard| heard.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
}

const fn state_name(state: ClusterState) -> &'static str {
    match state {
        ClusterState::Joining => "joining",
        ClusterState::Active => "active",
        ClusterState::Leaving => "leaving",
        ClusterState::Lost => "lost",
    }
}
