//! The network between members.

use std::collections::BTreeSet;

use rand::{Rng, rngs::StdRng};
use tombolo_model::ClusterId;

/// What the network does to messages, fixed per run.
pub(crate) struct Network {
    loss: f64,
    duplication: f64,
    max_delay: u64,
    /// Pairs (from, to) between which nothing arrives.
    cut: BTreeSet<(ClusterId, ClusterId)>,
}

impl Network {
    pub(crate) fn new(random: &mut StdRng) -> Self {
        Self {
            loss: if random.random_bool(0.5) { random.random_range(0.0..0.2) } else { 0.0 },
            duplication: random.random_range(0.0..0.1),
            max_delay: *[5, 50, 400].get(random.random_range(0..3)).unwrap_or(&5),
            cut: BTreeSet::new(),
        }
    }

    /// Delays in ms with which a message arrives: once, twice or never.
    pub(crate) fn deliveries(&self, random: &mut StdRng, from: ClusterId, to: ClusterId) -> Vec<u64> {
        if self.cut.contains(&(from, to)) || random.random_bool(self.loss) {
            return Vec::new();
        }
        let copies = if random.random_bool(self.duplication) { 2 } else { 1 };
        (0..copies).map(|_| random.random_range(1..=self.max_delay)).collect()
    }

    /// Cuts some of the clusters off from the others, in one direction or both.
    pub(crate) fn partition(&mut self, random: &mut StdRng, clusters: &[ClusterId]) {
        self.cut.clear();
        let (one_way, share) = (random.random_bool(0.3), random.random_range(0.1..0.6));
        let side: Vec<ClusterId> = clusters.iter().copied().filter(|_| random.random_bool(share)).collect();
        for &inside in &side {
            for &outside in clusters.iter().filter(|c| !side.contains(c)) {
                self.cut.insert((inside, outside));
                if !one_way {
                    self.cut.insert((outside, inside));
                }
            }
        }
    }

    /// Removes every cut.
    pub(crate) fn reconnect(&mut self) {
        self.cut.clear();
    }

    /// Makes it a good network.
    pub(crate) fn heal(&mut self) {
        self.reconnect();
        (self.loss, self.duplication, self.max_delay) = (0.0, 0.0, 5);
    }
}
