//! The mesh as this cluster sees it, for `tombolo mesh status`.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use tombolo_mesh_core::membership::{ClusterRecord, ClusterState, Departure};
use tombolo_mesh_net::{peer::PeerStatus, tls::pin_of};
use tombolo_model::{ClusterId, Departed, Kind, MemberStatus, MeshStatus, RefusedConnections};

use super::{Known, Mesh, NotRunning, problems::Situation};
use crate::status::name;

/// How many records of each kind are known of each cluster.
type Counts = BTreeMap<ClusterId, BTreeMap<Kind, u64>>;

impl Mesh {
    /// The state now.
    ///
    /// # Errors
    /// There is no member that runs.
    pub fn status(&self) -> Result<MeshStatus, NotRunning> {
        let membership = self.membership()?;
        let known = self.known()?;
        let Known { state, status, .. } = &known;
        let counts = self.0.parts.exporter.counts();
        let local = &self.0.config.local;
        let peers = self.0.peers.all();
        let misdeeds = |of| membership.misdeeds(of);
        let (own, drain) = (local.cluster_id, self.0.config.drain);
        let situation = Situation { own, state, status, peers: &peers, drain, misdeeds: &misdeeds };
        let members: Vec<_> =
            state.clusters.values().map(|record| self.member(record, &situation, &counts)).collect();
        let mut problems: Vec<_> = self.0.problems.borrow().record.iter().cloned().collect();
        problems.extend(situation.problems());
        Ok(MeshStatus {
            cluster: local.cluster.clone(),
            id: local.cluster_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mesh: state.mesh.to_string(),
            leader: known.leader().map(|record| record.name.clone()),
            term: status.term,
            applied: status.applied,
            members,
            rotation: None,
            refused_connections: self
                .0
                .parts
                .stats
                .refused()
                .map(|(count, last)| RefusedConnections { count, last }),
            departures: state.departures.iter().rev().map(departed).collect(),
            problems,
        })
    }

    fn member(&self, record: &ClusterRecord, situation: &Situation<'_>, counts: &Counts) -> MemberStatus {
        let own = record.id == self.0.config.local.cluster_id;
        let (peer, complete) = situation.peers.get(&record.id).cloned().unwrap_or_default();
        let counts = counts.get(&record.id).into_iter().flatten();
        let refused = peer.refusals.iter().map(|(reason, n)| (reason.as_str().to_owned(), *n));
        MemberStatus {
            name: record.name.clone(),
            id: record.id,
            state: state_name(record.state).to_owned(),
            voter: situation.status.conf.voters.contains(&record.member().get()),
            incarnation: record.incarnation,
            ca_pins: record.ca.iter().map(|der| pin(der)).collect(),
            endpoints: record.endpoints.iter().map(ToString::to_string).collect(),
            pod_prefixes: record.pod_prefixes.clone(),
            software: if own { Some(self.0.config.local.software.clone()) } else { peer.software.clone() },
            connected: own || peer.up,
            synced: complete || (own && self.0.parts.nodes.borrow().is_some()),
            heard_ms: heard_ms(&peer),
            behind: peer.lag,
            membership_behind: if own { Some(0) } else { situation.membership_behind(record.id) },
            cut_off_from: situation.cut_off_from(record.id),
            counts: counts.map(|(kind, n)| (name(*kind).to_owned(), *n)).collect(),
            refused: refused.collect(),
        }
    }
}

fn departed(departure: &Departure) -> Departed {
    let at = i64::try_from(departure.at).ok().and_then(|at| Timestamp::from_second(at).ok());
    Departed {
        name: departure.name.clone(),
        by: departure.by.clone(),
        at: at.unwrap_or(Timestamp::MAX).to_string(),
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
