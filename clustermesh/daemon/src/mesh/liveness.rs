//! Which clusters are silent for so long that their backends must not be used.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tombolo_model::ClusterId;

/// How long a cluster must be back before its backends are used again: one that comes and goes stays out.
const BACK: Duration = Duration::from_secs(3);

/// See the module. Time is an argument.
#[derive(Debug)]
pub(super) struct Liveness {
    drain: Duration,
    clusters: BTreeMap<ClusterId, State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    excluded: bool,
    /// Since when it is connected and in sync.
    well_since: Option<Instant>,
}

/// What is known of a cluster at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    /// When it was heard last; before the first time, since when it is listened to.
    pub(super) heard: Instant,
    /// Whether it has a session and all of its records have arrived.
    pub(super) well: bool,
}

impl Liveness {
    /// Clusters are excluded after `drain` of silence.
    pub(super) const fn new(drain: Duration) -> Self {
        Self { drain, clusters: BTreeMap::new() }
    }

    /// The clusters to be excluded now. Those that are not mentioned are forgotten.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        signs: impl IntoIterator<Item = (ClusterId, Signs)>,
    ) -> BTreeSet<ClusterId> {
        let before = std::mem::take(&mut self.clusters);
        for (cluster, Signs { heard, well }) in signs {
            let mut state = before.get(&cluster).copied().unwrap_or_default();
            state.well_since = state.well_since.filter(|_| well).or(well.then_some(now));
            let silent = now.duration_since(heard) >= self.drain;
            state.excluded = silent || (state.excluded && !state.is_back(now));
            self.clusters.insert(cluster, state);
        }
        self.clusters.iter().filter(|(_, state)| state.excluded).map(|(cluster, _)| *cluster).collect()
    }

    /// Whether a cluster that was mentioned last time has to be looked at again. One that is back for good need not,
    /// until it loses its session.
    pub(super) fn is_doubtful(&self, cluster: ClusterId, now: Instant) -> bool {
        self.clusters.get(&cluster).is_some_and(|state| state.excluded || !state.is_back(now))
    }
}

impl State {
    fn is_back(&self, now: Instant) -> bool {
        self.well_since.is_some_and(|since| now.duration_since(since) >= BACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_excludes_and_steadiness_brings_back() {
        let cluster = ClusterId::try_from(2).unwrap();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut liveness = Liveness::new(Duration::from_secs(5));
        let mut excluded = |now, heard, well| {
            let signs = Signs { heard: at(heard), well };
            !liveness.judge(at(now), [(cluster, signs)]).is_empty()
        };
        assert!(!excluded(10, 10, true));
        assert!(!excluded(14, 10, false));
        assert!(excluded(15, 10, false), "silent for the drain time");
        assert!(excluded(20, 20, true), "back, but only just");
        assert!(excluded(22, 21, false), "gone again");
        assert!(excluded(23, 23, true));
        assert!(!excluded(26, 26, true), "back for good");
        assert!(!liveness.is_doubtful(cluster, at(26)), "and needs no look until it loses its session");
        liveness.judge(at(27), [(cluster, Signs { heard: at(27), well: false })]);
        assert!(liveness.is_doubtful(cluster, at(27)));
    }
}
