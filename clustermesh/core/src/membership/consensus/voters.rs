//! Which members vote: up to seven, those that answer before those that do not.

use std::collections::BTreeSet;

use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2};

use crate::membership::Conf;

/// Voters at most: more cost a wider quorum and gain nothing.
pub(super) const MAX_VOTERS: usize = 7;

/// What the leader knows about the members.
pub(super) struct View {
    /// Who belongs to the mesh.
    pub(super) members: BTreeSet<u64>,
    /// Whom the leader has heard of lately, itself included.
    pub(super) alive: BTreeSet<u64>,
    /// Who has the log up to what is committed, or nearly.
    pub(super) caught_up: BTreeSet<u64>,
}

/// The next step from `conf` to what `view` asks for, none when it is reached.
pub(super) fn next_change(conf: &Conf, view: &View) -> Option<ConfChangeV2> {
    if !conf.voters_outgoing.is_empty() {
        return None;
    }
    let voters: BTreeSet<u64> = conf.voters.iter().copied().collect();
    let learners: BTreeSet<u64> = conf.learners.iter().copied().collect();
    let mut wanted: BTreeSet<u64> = voters.intersection(&view.members).copied().collect();
    let fit = |id: &&u64| view.members.contains(id) && view.alive.contains(id) && view.caught_up.contains(id);
    let mut candidates = learners.iter().filter(fit).copied();
    while wanted.len() < MAX_VOTERS.min(view.members.len()) {
        let Some(id) = candidates.next() else { break };
        wanted.insert(id);
    }
    for dead in wanted.clone().into_iter().filter(|id| !view.alive.contains(id)) {
        let Some(id) = candidates.next() else { break };
        wanted.remove(&dead);
        wanted.insert(id);
    }
    // Without a voter there is nobody to decide anything.
    if wanted.is_empty() {
        return None;
    }
    let mut changes = Vec::new();
    let mut change = |id: u64, kind: ConfChangeType| {
        let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        changes.push(single);
    };
    for &id in voters.union(&learners).filter(|id| !view.members.contains(id)) {
        change(id, ConfChangeType::RemoveNode);
    }
    for &id in wanted.difference(&voters) {
        change(id, ConfChangeType::AddNode);
    }
    for &id in voters.difference(&wanted).filter(|id| view.members.contains(id)) {
        change(id, ConfChangeType::AddLearnerNode);
    }
    for &id in view.members.iter().filter(|id| !voters.contains(id) && !learners.contains(id)) {
        change(id, ConfChangeType::AddLearnerNode);
    }
    (!changes.is_empty()).then(|| ConfChangeV2 { changes, ..ConfChangeV2::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(members: &[u64], dead: &[u64]) -> View {
        let members: BTreeSet<u64> = members.iter().copied().collect();
        let alive: BTreeSet<u64> = members.iter().filter(|id| !dead.contains(id)).copied().collect();
        View { caught_up: alive.clone(), alive, members }
    }

    fn next(voters: &[u64], learners: &[u64], view: &View) -> Vec<(u64, ConfChangeType)> {
        let conf = Conf { voters: voters.to_vec(), learners: learners.to_vec(), ..Conf::default() };
        let changes = next_change(&conf, view).map(|c| c.changes).unwrap_or_default();
        changes.iter().map(|c| (c.node_id, c.get_change_type())).collect()
    }

    #[test]
    fn follows_the_members() {
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        assert_eq!(next(&[1], &[], &view(&[1], &[])), []);
        assert_eq!(next(&[1], &[], &view(&[1, 2], &[])), [(2, AddLearnerNode)]);
        assert_eq!(next(&[1], &[2], &view(&[1, 2], &[])), [(2, AddNode)]);
        assert_eq!(next(&[1], &[2], &view(&[1, 2], &[2])), [], "a silent learner stays one");
        assert_eq!(next(&[1, 2, 3], &[], &view(&[1, 3], &[])), [(2, RemoveNode)]);
        assert_eq!(
            next(&[1, 2, 3], &[], &view(&[1, 3, 102], &[])),
            [(2, RemoveNode), (102, AddLearnerNode)],
            "a new incarnation"
        );
    }

    #[test]
    fn only_who_has_the_log_begins_to_vote() {
        let behind = View { caught_up: BTreeSet::from([1]), ..view(&[1, 2], &[]) };
        assert_eq!(next(&[1], &[2], &behind), [], "a vote that counts needs a log");
        let gone = View { caught_up: BTreeSet::from([1, 2]), ..view(&[1, 2], &[2]) };
        assert_eq!(next(&[1], &[2], &gone), [], "it had the log once, and is silent");
    }

    #[test]
    fn at_most_seven_vote_and_the_dead_are_replaced() {
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        let seven = [1, 2, 3, 4, 5, 6, 7];
        let all = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(next(&seven, &[8], &view(&all, &[])), []);
        assert_eq!(next(&seven, &[8], &view(&all, &[4])), [(8, AddNode), (4, AddLearnerNode)]);
        assert_eq!(next(&seven, &[8], &view(&[1, 2, 3, 5, 6, 7, 8], &[])), [(4, RemoveNode), (8, AddNode)]);
        assert_eq!(next(&[1, 2, 3], &[], &view(&[1, 2, 3], &[3])), [], "nobody to take its place");
    }
}
