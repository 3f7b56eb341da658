//! The membership core holds under every seed, and the simulation notices what it must not miss.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tombolo_sim::{Mutant, run};

#[test]
fn a_few_hundred_seeds_hold() {
    let mut applied = 0;
    let mut clusters = 0;
    for seed in 0..300 {
        match run(seed, None) {
            Ok(report) => {
                applied += report.applied;
                clusters = clusters.max(report.clusters);
            }
            Err(violation) => panic!("replay with `cargo run -p tombolo-sim -- --seed {seed}`: {violation}"),
        }
    }
    assert!(applied > 10_000 && clusters > 7, "the runs do little: {applied} entries, {clusters} clusters");
}

#[test]
fn a_seed_replays() {
    let (one, other) = (run(42, None).unwrap(), run(42, None).unwrap());
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

#[test]
fn every_mistake_is_noticed() {
    for mutant in Mutant::ALL {
        let noticed = (0..1500).any(|seed| {
            let result = catch_unwind(AssertUnwindSafe(|| run(seed, Some(mutant))));
            !matches!(result, Ok(Ok(_)))
        });
        assert!(noticed, "{mutant:?} went unnoticed");
    }
}
