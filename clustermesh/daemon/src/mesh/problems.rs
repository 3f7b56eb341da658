//! What is wrong in the mesh as this cluster sees it, and what to do about it: one sentence each.

use std::{collections::BTreeMap, time::Duration};

use tombolo_mesh_core::membership::{ClusterRecord, ClusterState, MemberId, MeshState, Status};
use tombolo_mesh_net::{
    peer::{Misdeeds, PeerStatus},
    raft::ProposeError,
};
use tombolo_model::{ClusterId, ClusterName};

/// In the words of whoever turns a certificate away, which come over the wire ([`TrustError::UnknownCluster`]).
///
/// [`TrustError::UnknownCluster`]: tombolo_mesh_net::tls::TrustError
const NOT_A_MEMBER: &str = "whose cluster is not a member of this mesh";

/// What problems are found in.
pub(super) struct Situation<'a> {
    pub(super) own: ClusterId,
    pub(super) state: &'a MeshState,
    pub(super) status: &'a Status,
    /// The sessions, and whether all records of the other side have arrived once.
    pub(super) peers: &'a BTreeMap<ClusterId, (PeerStatus, bool)>,
    /// Silence after which others say that they do not hear a cluster.
    pub(super) drain: Duration,
    /// What came from the members of others that no honest one sends.
    pub(super) misdeeds: &'a dyn Fn(ClusterId) -> Misdeeds,
}

impl Situation<'_> {
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.state.clusters.get(&self.own).is_some_and(|c| c.state == ClusterState::Lost) {
            problems.push(
                "the mesh was recovered without this cluster: run `tombolo disconnect` here, then join again"
                    .to_owned(),
            );
        }
        if let Some(first) = self.others().find(|record| self.is_disowned_by(record.id)) {
            problems.push(format!(
                "cluster {} says that this cluster is no member of the mesh: if it was taken out, run `tombolo disconnect` \
                 here, then join again",
                first.name
            ));
        }
        problems.extend(self.votes());
        for record in self.others() {
            problems.extend(self.of_cluster(record));
        }
        problems.extend(self.between_others());
        problems
    }

    /// The members that do not hear a cluster, this one included. Of those without a session nothing is known.
    pub(super) fn cut_off_from(&self, cluster: ClusterId) -> Vec<ClusterName> {
        let deaf = |record: &&ClusterRecord| match record.id == self.own {
            true => cluster != self.own && self.session(cluster).is_none(),
            false => self.is_silent_to(cluster, record.id) && self.session(record.id).is_some(),
        };
        self.state.clusters.values().filter(deaf).map(|record| record.name.clone()).collect()
    }

    /// How many changes of the membership a cluster has not applied yet; none without a session.
    pub(super) fn membership_behind(&self, cluster: ClusterId) -> Option<u64> {
        let applied = self.session(cluster)?.observation.as_ref()?.membership;
        Some(self.state.version.saturating_sub(applied))
    }

    /// Whether the mesh can decide, and how close it is to not being able to.
    fn votes(&self) -> Option<String> {
        let voters: Vec<_> =
            self.status.conf.voters.iter().filter_map(|id| MemberId::from_bits(*id)?.cluster()).collect();
        let answers = |id: &&ClusterId| **id == self.own || self.session(**id).is_some();
        let answering = voters.iter().filter(answers).count();
        let needed = voters.len() / 2 + 1;
        // Of two, the other one may have lost its member and keep its session.
        if self.status.leader.is_none() && answering >= needed && voters.len() > 2 {
            return Some(format!(
                "this cluster does not hear the member that leads, though {answering} of {} voters answer it: ask for \
                 joins and leaves on another one, or move leadership by `tombolo mesh transfer` there",
                voters.len()
            ));
        }
        if self.status.leader.is_none() {
            return Some(ProposeError::NoQuorum.to_string());
        }
        // Two decide together, always.
        (voters.len() > 2 && answering == needed).then(|| {
            format!(
                "only {answering} of {} voters answer this cluster: one less, and nobody can join or leave",
                voters.len()
            )
        })
    }

    fn of_cluster(&self, record: &ClusterRecord) -> Vec<String> {
        let name = &record.name;
        if record.state == ClusterState::Lost {
            return vec![format!("cluster {name} was given up: it must join again, or be disconnected")];
        }
        let Some((peer, complete)) = self.peers.get(&record.id) else {
            return vec![format!("cluster {name} cannot be reached: its CA certificate is not valid")];
        };
        let mut problems = Vec::new();
        if !peer.up {
            let since = peer
                .heard
                .map_or_else(|| "yet".to_owned(), |heard| format!("since {} s", heard.elapsed().as_secs()));
            let why = peer.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            // Before that nobody says so.
            let settled = peer.heard.is_none_or(|heard| heard.elapsed() >= 2 * self.drain);
            let advice = if settled { self.advice(record) } else { "it may be back in a moment".to_owned() };
            problems.push(format!("no session with cluster {name} {since}{why}; {advice}"));
        } else if !complete {
            problems.push(format!(
                "cluster {name} is still sending its records, {} have arrived: its backends are used as they come",
                peer.records
            ));
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
        for misdeeds in [&peer.misdeeds, &(self.misdeeds)(record.id)] {
            if misdeeds.count > 0 {
                problems.push(format!(
                    "cluster {name} has sent what no honest member sends, {} times, the last: {}; it is defective, or \
                     somebody else has its keys: `tombolo disconnect --cluster {name}` takes it out",
                    misdeeds.count, misdeeds.last
                ));
            }
        }
        problems
    }

    /// What to do about a cluster that is not heard here.
    fn advice(&self, record: &ClusterRecord) -> String {
        let heard_by: Vec<_> =
            self.observers().filter(|other| !self.is_silent_to(record.id, other.id)).collect();
        if let Some(first) = heard_by.first() {
            return format!(
                "{} cluster {} hears it: check UDP port 4240 between its nodes and those of this cluster",
                if heard_by.len() > 1 { "beside others," } else { "but" },
                first.name
            );
        }
        format!(
            "{}if it is gone for good, run `tombolo disconnect --cluster {}`",
            if self.observers().next().is_some() { "no other cluster hears it either: " } else { "" },
            record.name
        )
    }

    /// Whether a cluster turns this one away as somebody unknown.
    fn is_disowned_by(&self, cluster: ClusterId) -> bool {
        let last_error = self.peers.get(&cluster).and_then(|(peer, _)| peer.last_error.as_ref());
        self.session(cluster).is_none() && last_error.is_some_and(|error| error.contains(NOT_A_MEMBER))
    }

    /// Pairs of other clusters that this one hears, but that do not hear each other.
    fn between_others(&self) -> Vec<String> {
        let heard: Vec<_> = self.observers().collect();
        let mut problems = Vec::new();
        for (i, a) in heard.iter().enumerate() {
            for b in heard.iter().skip(i + 1) {
                let (deaf, mute, mutual) =
                    match (self.is_silent_to(b.id, a.id), self.is_silent_to(a.id, b.id)) {
                        (true, mutual) => (a, b, mutual),
                        (false, true) => (b, a, false),
                        (false, false) => continue,
                    };
                let said = if mutual {
                    format!("clusters {} and {} do not hear each other", deaf.name, mute.name)
                } else {
                    format!("cluster {} does not hear cluster {}", deaf.name, mute.name)
                };
                problems.push(format!(
                    "{said}, this one hears both: check UDP port 4240 between them; until then they do not use each \
                     other's backends"
                ));
            }
        }
        problems
    }

    /// The other clusters that say what they hear.
    fn observers(&self) -> impl Iterator<Item = &ClusterRecord> {
        self.others().filter(|record| self.session(record.id).is_some_and(|peer| peer.observation.is_some()))
    }

    /// Whether `observer` says that it does not hear `cluster`.
    fn is_silent_to(&self, cluster: ClusterId, observer: ClusterId) -> bool {
        let observation = self.peers.get(&observer).and_then(|(peer, _)| peer.observation.as_ref());
        observation.is_some_and(|observation| observation.silent.contains(&cluster))
    }

    fn session(&self, cluster: ClusterId) -> Option<&PeerStatus> {
        self.peers.get(&cluster).map(|(peer, _)| peer).filter(|peer| peer.up)
    }

    fn others(&self) -> impl Iterator<Item = &ClusterRecord> {
        self.state.clusters.values().filter(|record| record.id != self.own)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tombolo_mesh_core::{
        membership::{Conf, Lineage, MeshId, Role},
        wire::Observation,
    };
    use tombolo_mesh_net::tls::TrustError;

    use super::*;

    const NAMES: [&str; 4] = ["east", "west", "north", "south"];

    fn id(n: u16) -> ClusterId {
        n.try_into().unwrap()
    }

    fn mesh() -> MeshState {
        let mut state = MeshState::empty(MeshId(1), Lineage(1));
        for (n, name) in (1..).zip(NAMES) {
            let record = ClusterRecord {
                id: id(n),
                name: name.parse().unwrap(),
                ca: Vec::new(),
                endpoints: Vec::new(),
                node_prefixes: Vec::new(),
                pod_prefixes: Vec::new(),
                features: BTreeSet::new(),
                incarnation: 1,
                state: ClusterState::Active,
                revision: 1,
                signature: Vec::new(),
            };
            state.clusters.insert(record.id, record);
        }
        state.version = 9;
        state
    }

    fn status(leader: Option<u16>) -> Status {
        let member = |n| MemberId::new(id(n), 1);
        Status {
            member: member(1),
            role: Role::Follower,
            leader: leader.map(member),
            term: 3,
            conf: Conf { voters: [1, 2, 4].map(|n| member(n).get()).to_vec(), ..Conf::default() },
            commit: 7,
            applied: 7,
            last_index: 7,
            halted: None,
        }
    }

    /// A session with a cluster that does not hear `silent`.
    fn hears_all_but(silent: &[u16]) -> (PeerStatus, bool) {
        let silent = silent.iter().map(|n| id(*n)).collect();
        let observation = Some(Observation { silent, membership: 8 });
        (PeerStatus { up: true, observation, ..PeerStatus::default() }, true)
    }

    fn seen<'a>(
        state: &'a MeshState,
        status: &'a Status,
        peers: &'a BTreeMap<ClusterId, (PeerStatus, bool)>,
    ) -> Situation<'a> {
        let drain = Duration::from_secs(5);
        Situation { own: id(1), state, status, peers, drain, misdeeds: &|_| Misdeeds::default() }
    }

    fn see(peers: [(PeerStatus, bool); 3], leader: Option<u16>) -> (Vec<String>, Vec<Vec<String>>) {
        let (state, status) = (mesh(), status(leader));
        let peers = (2..).map(id).zip(peers).collect();
        let situation = seen(&state, &status, &peers);
        let names = |n| situation.cut_off_from(id(n)).iter().map(ToString::to_string).collect();
        (situation.problems(), (1..=4).map(names).collect())
    }

    #[test]
    fn a_whole_mesh_has_no_problem() {
        let (problems, cut_off) = see([hears_all_but(&[]), hears_all_but(&[]), hears_all_but(&[])], Some(2));
        assert_eq!(problems, Vec::<String>::new());
        assert!(cut_off.iter().all(Vec::is_empty));
    }

    #[test]
    fn a_cluster_that_others_hear_is_cut_off_from_here() {
        let (problems, cut_off) =
            see([hears_all_but(&[]), (PeerStatus::default(), true), hears_all_but(&[])], Some(2));
        let [one] = &problems[..] else { panic!("{problems:?}") };
        assert!(
            one.starts_with("no session with cluster north yet; beside others, cluster west hears it"),
            "{one}"
        );
        assert_eq!(cut_off[2], ["east"]);
    }

    #[test]
    fn a_dead_cluster_may_be_disconnected() {
        let dead = (PeerStatus::default(), true);
        let (problems, cut_off) = see([hears_all_but(&[3]), dead, hears_all_but(&[3])], Some(2));
        let [one] = &problems[..] else { panic!("{problems:?}") };
        assert!(one.contains("no other cluster hears it either"), "{one}");
        assert!(one.ends_with("`tombolo disconnect --cluster north`"), "{one}");
        assert_eq!(cut_off[2], ["east", "west", "south"]);
    }

    #[test]
    fn who_was_taken_out_is_told_so() {
        let away = TrustError::UnknownCluster("spiffe://east/daemon".parse().unwrap());
        let last_error = Some(format!("aborted by peer: {away}"));
        let refusing = (PeerStatus { last_error, ..PeerStatus::default() }, true);
        let (problems, _) = see([refusing, hears_all_but(&[]), hears_all_but(&[])], Some(4));
        assert!(problems[0].starts_with("cluster west says that this cluster is no member"), "{problems:?}");
    }

    #[test]
    fn who_was_given_up_by_a_recovery_is_named_and_told_so() {
        let (mut state, status) = (mesh(), status(Some(2)));
        for lost in [1, 3] {
            state.clusters.get_mut(&id(lost)).unwrap().state = ClusterState::Lost;
        }
        let peers = BTreeMap::from([(id(2), hears_all_but(&[])), (id(4), hears_all_but(&[]))]);
        let problems = seen(&state, &status, &peers).problems();
        assert_eq!(
            problems[0],
            "the mesh was recovered without this cluster: run `tombolo disconnect` here, then join again"
        );
        let other = "cluster north was given up: it must join again, or be disconnected".to_owned();
        assert!(problems.contains(&other), "{problems:?}");
    }

    #[test]
    fn others_that_do_not_hear_each_other_are_named() {
        let (problems, cut_off) =
            see([hears_all_but(&[4]), hears_all_but(&[2]), hears_all_but(&[2])], Some(2));
        assert!(
            problems[0].starts_with("cluster north does not hear cluster west, this one hears both"),
            "{problems:?}"
        );
        assert!(problems[1].starts_with("clusters west and south do not hear each other"), "{problems:?}");
        assert_eq!(problems.len(), 2);
        assert_eq!(
            cut_off,
            [vec![], vec!["north".to_owned(), "south".to_owned()], vec![], vec!["west".to_owned()]]
        );
    }

    #[test]
    fn votes_are_counted() {
        let dead = || (PeerStatus::default(), true);
        let (problems, _) = see([hears_all_but(&[]), hears_all_but(&[]), dead()], Some(1));
        assert!(problems[0].starts_with("only 2 of 3 voters answer"), "{problems:?}");
        let (problems, _) = see([dead(), dead(), dead()], None);
        assert!(problems[0].contains("tombolo mesh recover"), "{problems:?}");
        let (problems, _) = see([hears_all_but(&[]), hears_all_but(&[]), dead()], None);
        assert!(problems[0].contains("does not hear the member that leads"), "{problems:?}");
    }

    #[test]
    fn who_lags_is_known() {
        let (state, status) = (mesh(), status(Some(2)));
        let peers = BTreeMap::from([(id(2), hears_all_but(&[]))]);
        let situation = seen(&state, &status, &peers);
        assert_eq!(situation.membership_behind(id(2)), Some(1));
        assert_eq!(situation.membership_behind(id(3)), None);
    }
}
