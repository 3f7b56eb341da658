//! The replicated state machine: clusters and tokens.

use std::collections::BTreeMap;

use tombolo_model::ClusterId;

use super::{
    Admission, ClusterRecord, ClusterState, Command, Departure, Lineage, MeshId, Proposal, Refusal, Renewal,
    TokenId, TokenRecord, TokenStatus,
    limits::{MAX_DEPARTURES, MAX_RECORDS, MAX_TOKENS},
};

/// Bounds of a [`ClusterRecord`]'s lists.
const MAX_CA_CERTIFICATES: usize = 4;
const MAX_CA_BYTES: usize = 8 * 1024;
const MAX_ENDPOINTS: usize = 16;
const MAX_PREFIXES: usize = 256;
const MAX_FEATURES: usize = 64;
const MAX_FEATURE_BYTES: usize = 64;
const MAX_SIGNATURE_BYTES: usize = 1024;

/// What all members agree on. Only [`MeshState::apply`] changes it, and the same proposals in the same order make
/// the same state everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshState {
    /// The mesh.
    pub mesh: MeshId,
    /// The line of history; a recovery begins a new one.
    pub lineage: Lineage,
    /// Counts the changes.
    pub version: u64,
    /// The time of the last proposal by the clock of the member that led, seconds since 1970 (UTC). It goes back when that
    /// clock does, or the next leader's: a clock that was years ahead must not end all tokens to come.
    pub clock: u64,
    /// Its clusters.
    pub clusters: BTreeMap<ClusterId, ClusterRecord>,
    /// Its tokens, spent and revoked ones until they expire.
    pub tokens: BTreeMap<TokenId, TokenRecord>,
    /// The last incarnations of clusters that were removed, so that no member id is ever used again.
    pub retired: BTreeMap<ClusterId, u32>,
    /// Who was removed by whom, the oldest first: of the last ones, and of those only that have not come back.
    pub departures: Vec<Departure>,
}

impl MeshState {
    /// The state before anything is known.
    pub const fn empty(mesh: MeshId, lineage: Lineage) -> Self {
        Self {
            mesh,
            lineage,
            version: 0,
            clock: 0,
            clusters: BTreeMap::new(),
            tokens: BTreeMap::new(),
            retired: BTreeMap::new(),
            departures: Vec::new(),
        }
    }

    /// The clusters besides this one that were not given up.
    pub fn others(&self, own: ClusterId) -> impl Iterator<Item = &ClusterRecord> {
        self.clusters.values().filter(move |c| c.id != own && c.state != ClusterState::Lost)
    }

    /// Carries a proposal out, or says why not; a refusal changes nothing but the clock.
    pub fn apply(&mut self, proposal: &Proposal) -> Result<(), Refusal> {
        self.clock = proposal.at;
        let changed = match &proposal.command {
            Command::AddCluster { record, admission } => self.add_cluster(record, admission),
            Command::UpdateCluster(record) => self.update_cluster(proposal.proposer, record),
            Command::RemoveCluster(id) => self.remove_cluster(proposal.proposer, *id),
            Command::RenewMember(renewal) => self.renew_member(renewal),
            Command::CreateToken(token) => self.create_token(proposal.proposer, token),
            Command::RevokeToken(id) => self.revoke_token(*id),
            Command::Unknown => Err(Refusal::UnknownCommand),
        }?;
        self.version += u64::from(changed);
        Ok(())
    }

    /// Checks what [`Command::AddCluster`] would check, for a pre-flight.
    pub fn check_admission(
        &self,
        record: &ClusterRecord,
        admission: &Admission,
        now: u64,
    ) -> Result<(), Refusal> {
        if self.is_repeated(record, admission) {
            return Ok(());
        }
        self.check_token(admission, now)?;
        self.check_new(record)
    }

    /// Whether another state, which claims to follow this one, changes nobody's record in anybody else's name.
    pub(super) fn may_become(&self, next: &Self) -> Result<(), Refusal> {
        let replaced =
            self.clusters.values().filter_map(|known| Some((known, next.clusters.get(&known.id)?)));
        // Another incarnation was admitted anew.
        replaced
            .filter(|(known, record)| known.member() == record.member())
            .try_for_each(|(known, record)| record.may_replace(known))
    }

    fn add_cluster(&mut self, record: &ClusterRecord, admission: &Admission) -> Result<bool, Refusal> {
        if self.is_repeated(record, admission) {
            return Ok(false);
        }
        self.check_admission(record, admission, self.clock)?;
        if let Some(token) = self.tokens.get_mut(&admission.token) {
            token.status = TokenStatus::Spent(record.id);
        }
        self.departures.retain(|departure| departure.id != record.id);
        let incarnation = self.retired.remove(&record.id).unwrap_or(0).saturating_add(1);
        let added = ClusterRecord { state: ClusterState::Joining, incarnation, ..record.clone() };
        self.clusters.insert(record.id, added);
        Ok(true)
    }

    /// The proposer did not hear the answer and asks again.
    fn is_repeated(&self, record: &ClusterRecord, admission: &Admission) -> bool {
        let spent_by_it = self.tokens.get(&admission.token).is_some_and(|token| {
            token.secret_hash == admission.secret_hash && token.status == TokenStatus::Spent(record.id)
        });
        let known = self.clusters.get(&record.id);
        spent_by_it && known.is_some_and(|known| known.name == record.name && known.ca == record.ca)
    }

    fn check_token(&self, admission: &Admission, now: u64) -> Result<(), Refusal> {
        if admission.mesh != self.mesh {
            return Err(Refusal::OtherMesh { token: admission.mesh, mesh: self.mesh });
        }
        let token = self.tokens.get(&admission.token).ok_or(Refusal::TokenUnknown(admission.token))?;
        if token.secret_hash != admission.secret_hash {
            return Err(Refusal::TokenSecretWrong(token.id));
        }
        match token.status {
            TokenStatus::Spent(by) => Err(Refusal::TokenSpent { token: token.id, by }),
            TokenStatus::Revoked => Err(Refusal::TokenRevoked(token.id)),
            TokenStatus::Open if token.expires <= now => {
                Err(Refusal::TokenExpired { token: token.id, expires: token.expires, now })
            }
            TokenStatus::Open => Ok(()),
        }
    }

    fn check_new(&self, record: &ClusterRecord) -> Result<(), Refusal> {
        if let Some(owner) = self.clusters.get(&record.id) {
            if owner.name == record.name {
                return Err(Refusal::AlreadyMember { name: owner.name.clone(), id: owner.id });
            }
            return Err(Refusal::IdTaken { id: record.id, owner: owner.name.clone(), free: self.free_id() });
        }
        if let Some(other) = self.clusters.values().find(|c| c.name == record.name) {
            return Err(Refusal::NameTaken { name: record.name.clone(), id: other.id });
        }
        check_size(record)?;
        self.check_room(record)?;
        self.check_pod_prefixes(record)
    }

    /// Whether there is room for a record, in the place of the one before it.
    fn check_room(&self, record: &ClusterRecord) -> Result<(), Refusal> {
        let grows =
            self.clusters.get(&record.id).is_none_or(|known| known.stored_len() < record.stored_len());
        let others = self.clusters.values().filter(|other| other.id != record.id);
        let given = others.map(ClusterRecord::stored_len).sum::<usize>() + record.stored_len();
        if !grows || given <= MAX_RECORDS {
            return Ok(());
        }
        Err(Refusal::MeshFull { cluster: record.name.clone(), given, max: MAX_RECORDS })
    }

    fn free_id(&self) -> Option<ClusterId> {
        (1..=ClusterId::MAX).filter_map(|id| id.try_into().ok()).find(|id| !self.clusters.contains_key(id))
    }

    fn check_pod_prefixes(&self, record: &ClusterRecord) -> Result<(), Refusal> {
        for other in self.clusters.values().filter(|c| c.id != record.id) {
            for &range in &record.pod_prefixes {
                if let Some(&other_range) = other.pod_prefixes.iter().find(|p| p.overlaps(range)) {
                    return Err(Refusal::PodPrefixesOverlap {
                        range,
                        cluster: record.name.clone(),
                        other_range,
                        other: other.name.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    fn update_cluster(&mut self, proposer: ClusterId, record: &ClusterRecord) -> Result<bool, Refusal> {
        let known = self.clusters.get(&record.id).ok_or(Refusal::UnknownCluster(record.id))?;
        if proposer != record.id {
            return Err(Refusal::NotYourRecord { proposer, owner: record.id });
        }
        if known.name != record.name {
            return Err(Refusal::Renamed { old: known.name.clone(), new: record.name.clone() });
        }
        if known.incarnation != record.incarnation {
            return Err(Refusal::WrongIncarnation {
                cluster: record.id,
                given: record.incarnation,
                expected: known.incarnation,
            });
        }
        if known.state == ClusterState::Lost || record.state == ClusterState::Lost {
            return Err(Refusal::Lost(record.id));
        }
        check_size(record)?;
        self.check_room(record)?;
        record.may_replace(known)?;
        self.check_pod_prefixes(record)?;
        let changed = known != record;
        self.clusters.insert(record.id, record.clone());
        Ok(changed)
    }

    fn remove_cluster(&mut self, by: ClusterId, id: ClusterId) -> Result<bool, Refusal> {
        if !self.clusters.contains_key(&id) {
            return Err(Refusal::UnknownCluster(id));
        }
        if !self.clusters.values().any(|c| c.id != id && c.state != ClusterState::Lost) {
            return Err(Refusal::LastCluster(id));
        }
        // Whoever wanted it may have been taken out meanwhile.
        let gone = || self.departures.iter().rev().find(|gone| gone.id == by).map(|gone| &gone.name);
        let by = self.clusters.get(&by).map(|record| &record.name).or_else(gone).cloned();
        if let Some(removed) = self.clusters.remove(&id) {
            self.retired.insert(id, removed.incarnation);
            let by = by.unwrap_or_else(|| removed.name.clone());
            self.departures.push(Departure { id, name: removed.name, by, at: self.clock });
            let surplus = self.departures.len().saturating_sub(MAX_DEPARTURES);
            self.departures.drain(..surplus);
        }
        Ok(true)
    }

    fn renew_member(&mut self, renewal: &Renewal) -> Result<bool, Refusal> {
        if renewal.mesh != self.mesh {
            return Err(Refusal::OtherMesh { token: renewal.mesh, mesh: self.mesh });
        }
        let cluster = renewal.cluster;
        let known = self.clusters.get_mut(&cluster).ok_or(Refusal::UnknownCluster(cluster))?;
        renewal.check(known)?;
        known.incarnation = renewal.incarnation;
        known.state = ClusterState::Joining;
        Ok(true)
    }

    fn create_token(&mut self, creator: ClusterId, token: &TokenRecord) -> Result<bool, Refusal> {
        let now = self.clock;
        if token.expires <= now {
            return Err(Refusal::TokenExpired { token: token.id, expires: token.expires, now });
        }
        let made = TokenRecord { creator, status: TokenStatus::Open, ..token.clone() };
        if let Some(known) = self.tokens.get(&token.id) {
            return if *known == made { Ok(false) } else { Err(Refusal::TokenIdTaken(token.id)) };
        }
        self.tokens.retain(|_, t| t.expires > now);
        if self.tokens.len() >= MAX_TOKENS {
            return Err(Refusal::TooManyTokens(self.tokens.len()));
        }
        self.tokens.insert(token.id, made);
        Ok(true)
    }

    fn revoke_token(&mut self, id: TokenId) -> Result<bool, Refusal> {
        let token = self.tokens.get_mut(&id).ok_or(Refusal::TokenUnknown(id))?;
        match token.status {
            TokenStatus::Open => token.status = TokenStatus::Revoked,
            TokenStatus::Revoked => return Ok(false),
            TokenStatus::Spent(by) => return Err(Refusal::TokenSpent { token: id, by }),
        }
        Ok(true)
    }
}

/// Whether a record is small enough to be proposed at all.
pub(super) fn check_size(record: &ClusterRecord) -> Result<(), Refusal> {
    let feature_bytes = record.features.iter().map(String::len).max().unwrap_or(0);
    let limits = [
        ("the number of CA certificates", record.ca.len(), MAX_CA_CERTIFICATES),
        ("the CA bundle in bytes", record.ca.iter().map(Vec::len).sum(), MAX_CA_BYTES),
        ("the list of endpoints", record.endpoints.len(), MAX_ENDPOINTS),
        ("the list of node ranges", record.node_prefixes.len(), MAX_PREFIXES),
        ("the list of pod ranges", record.pod_prefixes.len(), MAX_PREFIXES),
        ("the list of features", record.features.len(), MAX_FEATURES),
        ("the longest feature in bytes", feature_bytes, MAX_FEATURE_BYTES),
        ("the signature in bytes", record.signature.len(), MAX_SIGNATURE_BYTES),
    ];
    match limits.into_iter().find(|(_, given, max)| given > max) {
        Some((field, given, max)) => Err(Refusal::TooLarge { field, cluster: record.id, given, max }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
