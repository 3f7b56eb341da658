//! What must hold, whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use tombolo_mesh_core::membership::{
    Applied, ClusterState, Command, Member, MemberId, MeshState, ProposalId, Role, TokenId,
};
use tombolo_model::ClusterId;

use crate::Violation;

/// What has been seen so far, of all members.
#[derive(Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<u64, MemberId>,
    decided: BTreeMap<u64, u64>,
    states: BTreeMap<u64, u64>,
    admitted: BTreeMap<TokenId, ClusterId>,
    checked: BTreeMap<MemberId, (u64, u64)>,
    /// Admissions that the broken driver believes in from the moment it proposes them.
    pub(crate) believed: BTreeSet<ProposalId>,
}

impl Checks {
    /// After each step of a member.
    pub(crate) fn member(&mut self, member: &Member) -> Result<(), Violation> {
        if let Some(halt) = member.halted() {
            return Err(Violation(format!("member {} lost nothing and still halts: {halt}", member.id())));
        }
        let status = member.status();
        if status.role == Role::Leader {
            let leader = *self.leaders.entry(status.term).or_insert(status.member);
            if leader != status.member {
                return Err(Violation(format!(
                    "{leader} and {} both lead term {}",
                    status.member, status.term
                )));
            }
        }
        let state = member.state();
        let seen = (status.applied, state.version);
        if status.applied == 0 || self.checked.insert(status.member, seen) == Some(seen) {
            return Ok(());
        }
        let digest = digest(&state.encode());
        if *self.states.entry(status.applied).or_insert(digest) != digest {
            return Err(Violation(format!(
                "{} has another state at index {}",
                status.member, status.applied
            )));
        }
        unique(state)
    }

    /// After each decision that a member learns of.
    pub(crate) fn applied(&mut self, applied: &Applied) -> Result<(), Violation> {
        let digest = digest(format!("{applied:?}").as_bytes());
        if *self.decided.entry(applied.index).or_insert(digest) != digest {
            return Err(Violation(format!("members disagree on index {}: {applied:?}", applied.index)));
        }
        let Command::AddCluster { record, admission } = &applied.proposal.command else { return Ok(()) };
        if applied.outcome.is_err() && !self.believed.contains(&applied.proposal.id) {
            return Ok(());
        }
        let first = *self.admitted.entry(admission.token).or_insert(record.id);
        if first != record.id {
            return Err(Violation(format!("token {} admitted {first} and {}", admission.token, record.id)));
        }
        Ok(())
    }
}

/// Nothing is owned twice.
fn unique(state: &MeshState) -> Result<(), Violation> {
    let clusters: Vec<_> = state.clusters.values().collect();
    for (i, one) in clusters.iter().enumerate() {
        for other in clusters.iter().skip(i + 1) {
            if one.name == other.name || one.id == other.id {
                return Err(Violation(format!("{} and {} are the same", one.id, other.id)));
            }
            let overlap = one.pod_prefixes.iter().any(|p| other.pod_prefixes.iter().any(|o| o.overlaps(*p)));
            if overlap {
                return Err(Violation(format!("pod ranges of {} and {} overlap", one.id, other.id)));
            }
        }
    }
    Ok(())
}

/// What is not yet as it has to be on a healed network; none when everybody agrees.
pub(crate) fn disagreement<'a>(members: &(impl Iterator<Item = &'a Member> + Clone)) -> Option<String> {
    let leads = |m: &&Member| m.status().role == Role::Leader;
    let Some(leader) = members.clone().filter(leads).max_by_key(|m| m.status().term) else {
        return Some("nobody leads".to_owned());
    };
    let status = leader.status();
    let belongs: Vec<u64> = leader
        .state()
        .clusters
        .values()
        .filter(|c| c.state != ClusterState::Lost)
        .map(|c| c.member().get())
        .collect();
    if status.conf.voters.len() != belongs.len().min(7) || !status.conf.voters_outgoing.is_empty() {
        return Some(format!("{} members but voters {:?}", belongs.len(), status.conf));
    }
    for id in &belongs {
        let Some(member) = members.clone().find(|m| m.id().get() == *id) else {
            return Some(format!("member {id:#x} is not running"));
        };
        let other = member.status();
        if (other.applied, other.leader) != (status.applied, Some(status.member)) {
            return Some(format!("{other:?} does not follow {status:?}"));
        }
    }
    None
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
