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
    /// Those that are not well, or not for long: at rest nobody has to be looked at.
    clusters: BTreeMap<ClusterId, State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    silent: bool,
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

    /// A cluster has to be looked at: it is new, or its session has begun or ended.
    pub(super) fn doubt(&mut self, cluster: ClusterId) {
        self.clusters.entry(cluster).or_default();
    }

    /// The clusters to be excluded now. Those without signs are forgotten.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        signs: impl Fn(ClusterId) -> Option<Signs>,
    ) -> BTreeSet<ClusterId> {
        self.clusters.retain(|cluster, state| {
            let Some(Signs { heard, well }) = signs(*cluster) else { return false };
            state.well_since = state.well_since.filter(|_| well).or(well.then_some(now));
            let back = state.well_since.is_some_and(|since| now.duration_since(since) >= BACK);
            state.silent = now.duration_since(heard) >= self.drain;
            state.excluded = state.silent || (state.excluded && !back);
            // One that is back for good need not be looked at until it loses its session.
            state.excluded || !back
        });
        self.clusters.iter().filter(|(_, state)| state.excluded).map(|(cluster, _)| *cluster).collect()
    }

    /// The clusters that were silent when they were judged.
    pub(super) fn silent(&self) -> impl Iterator<Item = ClusterId> {
        self.clusters.iter().filter(|(_, state)| state.silent).map(|(cluster, _)| *cluster)
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
            liveness.doubt(cluster);
            !liveness.judge(at(now), |_| Some(Signs { heard: at(heard), well })).is_empty()
        };
        assert!(!excluded(10, 10, true));
        assert!(!excluded(14, 10, false));
        assert!(excluded(15, 10, false), "silent for the drain time");
        assert!(excluded(20, 20, true), "back, but only just");
        assert!(excluded(22, 21, false), "gone again");
        assert!(excluded(23, 23, true));
        assert!(!excluded(26, 26, true), "back for good");
        assert!(!liveness.clusters.contains_key(&cluster), "and needs no look until it loses its session");
        liveness.doubt(cluster);
        liveness.judge(at(27), |_| Some(Signs { heard: at(27), well: false }));
        assert!(liveness.clusters.contains_key(&cluster));
    }
}
