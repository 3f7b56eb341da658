//! In which order tests run, and on how few playgrounds.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::registration::{Company, Family, Where};
use crate::workspace::Registered;

/// Tests that need fewer clusters share a playground of at most so many. A larger one would slow all of them down.
const SHARED: u8 = 3;

/// Where a batch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// On the machine.
    Machine,
    /// On a playground of exactly this shape.
    Playground {
        /// The address families of its clusters.
        family: Family,
        /// Clusters.
        clusters: u8,
        /// Nodes of each.
        nodes: u8,
    },
}

/// Tests that share a place.
#[derive(Debug)]
pub struct Batch {
    /// The place.
    pub stage: Stage,
    /// Tests that may run at the same time, the longest first.
    pub together: Vec<Registered>,
    /// Tests that run one after the other when those are done, the ones that change the place at the end.
    pub alone: Vec<Registered>,
}

/// Puts tests into batches, in the order in which these run.
pub fn batches(tests: &[Registered]) -> Vec<Batch> {
    let mut by_stage: BTreeMap<Stage, Vec<Registered>> = BTreeMap::new();
    for test in tests {
        for &family in &test.registration.families {
            by_stage.entry(stage(test, family, tests)).or_default().push(test.clone());
        }
    }
    by_stage.into_iter().map(|(stage, tests)| batch(stage, tests)).collect()
}

/// The smallest playground that serves a test and all others that can share it.
fn stage(test: &Registered, family: Family, all: &[Registered]) -> Stage {
    let Where::Playground { clusters, nodes } = test.registration.place else { return Stage::Machine };
    let shares = |other: &&Registered| other.registration.families.contains(&family);
    let of_others = all.iter().filter(shares).filter_map(|other| match other.registration.place {
        Where::Playground { clusters: others, nodes: n } if n == nodes && others <= SHARED => Some(others),
        _ => None,
    });
    let clusters = if clusters > SHARED { clusters } else { of_others.max().unwrap_or(clusters) };
    Stage::Playground { clusters, nodes, family }
}

fn batch(stage: Stage, tests: Vec<Registered>) -> Batch {
    let (mut together, mut alone): (Vec<_>, Vec<_>) =
        tests.into_iter().partition(|test| test.registration.company == Company::Any);
    together.sort_by_key(|test| Reverse(test.registration.seconds));
    alone.sort_by_key(|test| test.registration.company);
    Batch { stage, together, alone }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registration::Registration;

    fn plan(reasons: &[&str]) -> Vec<(Stage, Vec<String>, Vec<String>)> {
        let tests: Vec<_> = reasons
            .iter()
            .enumerate()
            .map(|(i, reason)| Registered {
                suite: 0,
                name: i.to_string(),
                registration: Registration::parse(reason).unwrap(),
            })
            .collect();
        let names = |tests: Vec<Registered>| tests.into_iter().map(|test| test.name).collect();
        batches(&tests).into_iter().map(|b| (b.stage, names(b.together), names(b.alone))).collect()
    }

    #[test]
    fn few_playgrounds_serve_all() {
        let planned = plan(&[
            "needs 2 clusters; 5 s",
            "needs root; 5 s",
            "needs 5 clusters, alone; 5 s",
            "needs 3 clusters, alone; 5 s",
            "needs 1 cluster, also ipv6; 9 s",
            "needs 2 clusters, last; 5 s",
            "needs 2 clusters, alone; 5 s",
        ]);
        let on = |clusters, family| Stage::Playground { clusters, nodes: 2, family };
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            planned,
            [
                (Stage::Machine, names(&["1"]), names(&[])),
                (on(3, Family::Dual), names(&["4", "0"]), names(&["3", "6", "5"])),
                (on(5, Family::Dual), names(&[]), names(&["2"])),
                (on(1, Family::Ipv6), names(&["4"]), names(&[])),
            ]
        );
    }
}
