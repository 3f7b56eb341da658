//! Membership and replication hold under every seed, and the simulation notices what it must not miss.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tombolo_sim::{Mutant, Scenario, Violation, replication, run};

/// Worlds that are looked at; the long simulation has many more.
const SEEDS: u64 = 500;

#[test]
fn membership_holds() {
    let (mut applied, mut clusters, mut losses) = (0, 0, 0);
    for seed in 0..SEEDS {
        match run(&Scenario::new(seed, None)) {
            Ok(report) => {
                applied += report.applied;
                clusters = clusters.max(report.clusters);
                losses += report.losses;
            }
            Err(violation) => panic!("replay with `cargo run -p tombolo-sim -- --seed {seed}`: {violation}"),
        }
    }
    let much = applied > 100_000 && clusters > 7 && losses > 50;
    assert!(much, "the runs do little: {applied} entries, {clusters} clusters, {losses} disks lost");
}

#[test]
fn replication_holds() {
    let (mut changes, mut restarts, mut forged, mut refused) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        match replication::run(&Scenario::new(seed, None)) {
            Ok(report) => {
                changes += report.changes;
                restarts += report.restarts;
                forged += report.forged;
                refused += report.refused;
            }
            Err(violation) => {
                panic!("replay with `cargo run -p tombolo-sim -- --replication --seed {seed}`: {violation}")
            }
        }
    }
    let much = changes > 50_000 && restarts > 2500 && forged > 2500 && refused > 250;
    assert!(
        much,
        "the runs do little: {changes} changes, {restarts} restarts, {forged} lies, {refused} refused"
    );
}

#[test]
fn a_seed_replays() {
    let (one, other) = (run(&Scenario::new(42, None)).unwrap(), run(&Scenario::new(42, None)).unwrap());
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
    let (one, other) = (
        replication::run(&Scenario::new(42, None)).unwrap(),
        replication::run(&Scenario::new(42, None)).unwrap(),
    );
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

#[test]
fn every_mistake_around_membership_is_noticed() {
    for mutant in Mutant::MEMBERSHIP {
        assert!(
            noticed(1500, |seed| run(&Scenario::new(seed, Some(mutant))).map(drop)),
            "{mutant:?} went unnoticed"
        );
    }
}

#[test]
fn every_mistake_around_replication_is_noticed() {
    for mutant in Mutant::REPLICATION {
        let seed = |seed| replication::run(&Scenario::new(seed, Some(mutant))).map(drop);
        assert!(noticed(300, seed), "{mutant:?} went unnoticed");
    }
}

fn noticed(seeds: u64, run: impl Fn(u64) -> Result<(), Violation>) -> bool {
    (0..seeds).any(|seed| !matches!(catch_unwind(AssertUnwindSafe(|| run(seed))), Ok(Ok(()))))
}
