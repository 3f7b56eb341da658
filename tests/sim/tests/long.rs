//! Membership and replication hold under many more seeds than a commit waits for.

use tombolo_sim::{Scenario, replication, run};

/// The seeds after those of the short runs.
const SEEDS: std::ops::Range<u64> = 1000..9000;

#[test]
#[ignore = "needs nothing, long; 900 s"]
fn membership_holds_for_long() {
    for seed in SEEDS {
        if let Err(violation) = run(&Scenario::new(seed, None)) {
            panic!("replay with `cargo run -p tombolo-sim -- --seed {seed}`: {violation}");
        }
    }
}

#[test]
#[ignore = "needs nothing, long; 900 s"]
fn replication_holds_for_long() {
    for seed in SEEDS {
        if let Err(violation) = replication::run(&Scenario::new(seed, None)) {
            panic!("replay with `cargo run -p tombolo-sim -- --replication --seed {seed}`: {violation}");
        }
    }
}
