use proptest::prelude::*;

use super::*;

/// A table in memory whose writes to some keys fail.
#[derive(Default)]
struct Memory {
    held: BTreeMap<u8, u8>,
    broken: BTreeSet<u8>,
    writes: usize,
}

impl Memory {
    fn check(&mut self, key: u8) -> Result<(), &'static str> {
        self.writes += 1;
        if self.broken.contains(&key) { Err("no space left") } else { Ok(()) }
    }
}

impl Target<u8, u8> for Memory {
    type Error = &'static str;

    fn update(&mut self, key: &u8, value: &u8) -> Result<(), Self::Error> {
        self.check(*key)?;
        self.held.insert(*key, *value);
        Ok(())
    }

    fn delete(&mut self, key: &u8) -> Result<(), Self::Error> {
        self.check(*key)?;
        self.held.remove(key);
        Ok(())
    }

    fn list(&mut self) -> Result<BTreeMap<u8, u8>, Self::Error> {
        Ok(self.held.clone())
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn only_touched_keys_are_written() {
    let mut target = Memory::default();
    let mut reconciler = Reconciler::default();
    let mut desired = BTreeMap::from([(1, 1), (2, 2)]);
    reconciler.observe(target.list().unwrap(), &desired);
    assert_eq!(reconciler.run(&mut target, &desired, ms(0), true), 0);
    assert_eq!((target.writes, reconciler.is_settled()), (2, true));
    desired.insert(2, 9);
    desired.remove(&1);
    reconciler.touch([1, 2]);
    reconciler.run(&mut target, &desired, ms(0), true);
    assert_eq!((target.writes, &target.held), (4, &desired));
    reconciler.touch([2]);
    reconciler.run(&mut target, &desired, ms(0), true);
    assert_eq!(target.writes, 4);
}

#[test]
fn nothing_is_deleted_before_pruning_is_allowed() {
    let mut target = Memory { held: BTreeMap::from([(7, 7)]), ..Memory::default() };
    let mut reconciler = Reconciler::default();
    let desired = BTreeMap::from([(1, 1)]);
    reconciler.observe(target.list().unwrap(), &desired);
    reconciler.run(&mut target, &desired, ms(0), false);
    assert_eq!(target.held, BTreeMap::from([(1, 1), (7, 7)]));
    assert!(!reconciler.is_settled());
    reconciler.run(&mut target, &desired, ms(0), true);
    assert_eq!(target.held, desired);
}

#[test]
fn failures_back_off_and_hold_up_nobody() {
    let mut target = Memory { broken: BTreeSet::from([1]), ..Memory::default() };
    let mut reconciler = Reconciler::default();
    let desired = BTreeMap::from([(1, 1), (2, 2)]);
    reconciler.observe(BTreeMap::new(), &desired);
    assert_eq!(reconciler.run(&mut target, &desired, ms(0), true), 1);
    assert_eq!(target.held, BTreeMap::from([(2, 2)]));
    assert_eq!(reconciler.next_retry(), Some(ms(100)));
    reconciler.run(&mut target, &desired, ms(99), true);
    assert_eq!(target.writes, 2);
    reconciler.run(&mut target, &desired, ms(100), true);
    assert_eq!((target.writes, reconciler.next_retry()), (3, Some(ms(300))));
    assert_eq!(reconciler.failures()[&1].error, "no space left");
    target.broken.clear();
    assert_eq!(reconciler.run(&mut target, &desired, ms(300), true), 0);
    assert_eq!((reconciler.next_retry(), reconciler.is_settled()), (None, true));
}

#[test]
fn waits_are_bounded() {
    let mut reconciler = Reconciler::<u8, u8>::default();
    for _ in 0..100 {
        reconciler.record(1, Some(1), Err("broken"), ms(0));
    }
    assert_eq!(reconciler.next_retry(), Some(LAST_RETRY));
}

#[test]
fn a_full_pass_heals_drift() {
    let mut target = Memory::default();
    let mut reconciler = Reconciler::default();
    let desired = BTreeMap::from([(1, 1), (2, 2)]);
    reconciler.observe(BTreeMap::new(), &desired);
    reconciler.run(&mut target, &desired, ms(0), true);
    target.held = BTreeMap::from([(1, 5), (3, 3)]);
    reconciler.run(&mut target, &desired, ms(0), true);
    assert_ne!(target.held, desired);
    reconciler.observe(target.list().unwrap(), &desired);
    reconciler.run(&mut target, &desired, ms(0), true);
    assert_eq!(target.held, desired);
}

proptest! {
    #[test]
    fn a_plan_leads_from_applied_to_desired(
        desired: BTreeMap<u8, u8>, mut applied: BTreeMap<u8, u8>, prune: bool,
    ) {
        let before = applied.clone();
        let plan = diff(&desired, &applied, prune);
        applied.extend(plan.updates.iter().copied());
        applied.retain(|key, _| !plan.deletes.contains(key));
        if prune {
            prop_assert_eq!(&applied, &desired);
        } else {
            prop_assert!(before.keys().all(|key| applied.contains_key(key)));
            prop_assert!(desired.iter().all(|(key, value)| applied.get(key) == Some(value)));
        }
        prop_assert!(diff(&desired, &applied, prune).is_empty());
    }

    #[test]
    fn converges_whatever_failed(
        steps in prop::collection::vec((any::<BTreeMap<u8, u8>>(), any::<BTreeSet<u8>>()), 1..6),
    ) {
        let mut target = Memory::default();
        let mut reconciler = Reconciler::default();
        let mut desired: BTreeMap<u8, u8> = BTreeMap::new();
        for (step, (next, broken)) in steps.into_iter().enumerate() {
            reconciler.touch(desired.keys().chain(next.keys()).copied().collect::<Vec<_>>());
            (desired, target.broken) = (next, broken);
            reconciler.run(&mut target, &desired, Duration::from_secs(step as u64), true);
        }
        target.broken.clear();
        prop_assert_eq!(reconciler.run(&mut target, &desired, Duration::from_secs(3600), true), 0);
        prop_assert_eq!(target.held, desired);
    }
}
