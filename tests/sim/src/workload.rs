//! What users and attackers do meanwhile: join, join twice with one token, clash, change, leave.

use rand::{Rng, seq::IndexedRandom};
use tombolo_mesh_core::membership::{
    Admission, ClusterRecord, ClusterState, Command, Member, Renewal, Role, TokenId, TokenRecord, TokenStatus,
};
use tombolo_model::ClusterId;

use crate::{Mutant, Violation, node::MESH, world::World};

const TOKEN_LIFETIME: u64 = 15;

/// A cluster that would like to be in the mesh. Names and ranges repeat, so that they clash.
pub(crate) fn cluster(id: ClusterId, name: u16, range: u8) -> Result<ClusterRecord, Violation> {
    let bad = |e: &dyn std::fmt::Display| Violation(format!("workload: {e}"));
    Ok(ClusterRecord {
        id,
        name: format!("c{name}").parse().map_err(|e| bad(&e))?,
        ca: vec![id.get().to_be_bytes().to_vec()],
        endpoints: vec![],
        node_prefixes: vec![],
        pod_prefixes: vec![format!("10.{range}.0.0/16").parse().map_err(|e| bad(&e))?],
        features: std::collections::BTreeSet::new(),
        incarnation: 1,
        state: ClusterState::Joining,
        revision: 0,
        signature: vec![],
    })
}

impl World {
    /// Does one thing somewhere.
    pub(crate) fn work(&mut self) -> Result<(), Violation> {
        let running: Vec<ClusterId> = self.running().collect();
        let Some(&via) = running.choose(&mut self.random) else { return Ok(()) };
        match self.random.random_range(0..100) {
            0..25 => self.create_token(via),
            25..75 => self.join(via)?,
            75..90 => self.update(via)?,
            90..95 => {
                if let Some(&token) = self.tokens.choose(&mut self.random) {
                    self.propose(via, Command::RevokeToken(token));
                }
            }
            _ => self.remove_one(),
        }
        self.drive(via)
    }

    fn create_token(&mut self, via: ClusterId) {
        let id = TokenId(self.random.random());
        let expires = self.seconds() + TOKEN_LIFETIME;
        self.tokens.push(id);
        self.propose(
            via,
            Command::CreateToken(TokenRecord {
                id,
                secret_hash: [7; 32],
                expires,
                creator: via,
                status: TokenStatus::Open,
            }),
        );
    }

    /// One cluster, or two at once with the same token through different members, asks to be let in.
    fn join(&mut self, via: ClusterId) -> Result<(), Violation> {
        let Some(&token) = self.tokens.choose(&mut self.random) else { return Ok(()) };
        self.ask(via, token)?;
        if self.random.random_bool(0.3) {
            let running: Vec<ClusterId> = self.running().collect();
            let other = running.choose(&mut self.random).copied().unwrap_or(via);
            self.ask(other, token)?;
            self.drive(other)?;
        }
        Ok(())
    }

    fn ask(&mut self, via: ClusterId, token: TokenId) -> Result<(), Violation> {
        let n = self.random.random_range(1..=self.size);
        let Ok(id) = ClusterId::try_from(n) else { return Ok(()) };
        if self.removed.contains(&id) {
            return Ok(());
        }
        // Mostly its own name and range, now and then somebody else's.
        let odd = self.random.random_bool(0.1);
        let name = if odd { self.random.random_range(1..=self.size) } else { n };
        let range = if odd { self.random.random_range(1..=4) } else { u8::try_from(n).unwrap_or(u8::MAX) };
        let record = cluster(id, name, range)?;
        let admission = Admission { mesh: MESH, token, secret_hash: [7; 32] };
        let now = self.seconds();
        let fine =
            self.member(via).is_some_and(|m| m.state().check_admission(&record, &admission, now).is_ok());
        let id = self.propose(via, Command::AddCluster { record, admission });
        if fine && self.scenario.mutant == Some(Mutant::TokenCheckedEarly) {
            self.checks.believed.extend(id);
        }
        Ok(())
    }

    fn update(&mut self, via: ClusterId) -> Result<(), Violation> {
        let Some(mut record) = self.member(via).and_then(|m| m.state().clusters.get(&via).cloned()) else {
            return Ok(());
        };
        record.state = ClusterState::Active;
        if self.random.random_bool(0.3) {
            let range = self.random.random_range(1..=self.size);
            record.pod_prefixes = cluster(via, 1, u8::try_from(range).unwrap_or(u8::MAX))?.pod_prefixes;
        }
        self.propose(via, Command::UpdateCluster(record));
        Ok(())
    }

    /// Begins to remove a cluster, while enough others are well.
    fn remove_one(&mut self) {
        if !self.is_calm() {
            return;
        }
        let Some(members) = self.leader().map(|m| m.state().clusters.keys().copied().collect::<Vec<_>>())
        else {
            return;
        };
        if let Some(&id) = members.choose(&mut self.random).filter(|_| members.len() > 3) {
            self.removing = Some(id);
            self.removed.insert(id);
        }
    }

    /// Keeps asking until the cluster is out, and until one that lost its disk may come back.
    pub(crate) fn pursue(&mut self) -> Result<(), Violation> {
        if let Some(id) = self.removing {
            let gone = |m: &Member| {
                let conf = m.status().conf;
                let all: Vec<u64> = [conf.voters, conf.learners, conf.voters_outgoing].concat();
                let still = |id: ClusterId| all.iter().any(|raft| raft & 0xfff == u64::from(id.get()));
                !m.state().clusters.contains_key(&id) && !still(id)
            };
            if self.leader().is_some_and(gone) {
                self.removing = None;
                self.nodes.remove(&id);
            } else {
                self.ask_everybody(|_| Command::RemoveCluster(id))?;
            }
        }
        let lost: Vec<(ClusterId, u32)> = self
            .nodes
            .values()
            .filter(|n| n.lost)
            .map(|n| (n.cluster, n.disk.member.incarnation()))
            .collect();
        for (cluster, old) in lost {
            let renewed = |m: &Member| m.state().clusters.get(&cluster).map(ClusterRecord::member);
            let newest = self.nodes.values().filter_map(|n| n.member.as_ref()).filter_map(renewed).max();
            if let Some(id) = newest.filter(|id| id.incarnation() > old) {
                self.renew(cluster, id)?;
            } else {
                let renewal = Renewal { mesh: MESH, cluster, incarnation: old + 1, signature: Vec::new() };
                self.ask_everybody(|_| Command::RenewMember(renewal.clone()))?;
            }
        }
        Ok(())
    }

    fn ask_everybody(&mut self, command: impl Fn(ClusterId) -> Command) -> Result<(), Violation> {
        let running: Vec<ClusterId> = self.running().collect();
        for via in running {
            if self.member(via).is_some_and(|m| m.status().role == Role::Leader) {
                self.propose(via, command(via));
                self.drive(via)?;
            }
        }
        Ok(())
    }
}
