//! What a run is made of, and the smallest run that still fails.

use std::{collections::BTreeSet, fmt, panic::AssertUnwindSafe, panic::catch_unwind};

use clap::ValueEnum;

use crate::{Mutant, Violation};

/// A kind of trouble that a run can do without.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Trouble {
    /// Messages are lost, repeated or late.
    Network,
    /// Clusters do not hear each other, in one direction or both.
    Partitions,
    /// Processes die.
    Crashes,
    /// Processes die between a write and what follows it.
    CrashAtWrite,
    /// Disks are lost.
    Losses,
    /// Clocks jump by years.
    Clocks,
    /// Sessions break.
    Cuts,
    /// Daemons start anew with nothing.
    Restarts,
    /// Clusters with valid credentials lie.
    Lies,
}

/// One run, to be repeated exactly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Decides everything that is left open.
    pub seed: u64,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    /// Clusters that there are, at most.
    pub clusters: u16,
    /// How much of the usual time of trouble passes, in a hundred parts.
    pub length: u32,
    /// Trouble that does not happen.
    pub without: BTreeSet<Trouble>,
}

impl Scenario {
    /// Everything that can happen.
    pub const fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        Self { seed, mutant, clusters: u16::MAX, length: 100, without: BTreeSet::new() }
    }

    pub(crate) fn has(&self, trouble: Trouble) -> bool {
        !self.without.contains(&trouble)
    }

    /// The same failure, or another one, with as little as possible: kinds of trouble, clusters and time are taken away
    /// one after the other for as long as `run` fails.
    pub fn shrink(self, run: impl Fn(&Self) -> Result<(), Violation>) -> Self {
        let fails = |scenario: &Self| !matches!(catch_unwind(AssertUnwindSafe(|| run(scenario))), Ok(Ok(())));
        let mut smallest = self;
        loop {
            let Some(smaller) = smallest.smaller().into_iter().find(fails) else { return smallest };
            smallest = smaller;
        }
    }

    /// Runs with a little less, what saves most first.
    fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for &trouble in Trouble::value_variants().iter().filter(|trouble| self.has(**trouble)) {
            let without = self.without.iter().copied().chain([trouble]).collect();
            all.push(Self { without, ..self.clone() });
        }
        let fewer = if self.clusters == u16::MAX { vec![3, 5] } else { vec![self.clusters - 1] };
        all.extend(fewer.into_iter().filter(|n| *n >= 2).map(|clusters| Self { clusters, ..self.clone() }));
        let shorter = [self.length / 2, self.length * 9 / 10];
        let shorter = shorter.into_iter().filter(|length| *length > 0 && *length < self.length);
        all.extend(shorter.map(|length| Self { length, ..self.clone() }));
        all
    }
}

impl fmt::Display for Scenario {
    /// The flags that repeat it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |value: &dyn fmt::Display| format!(" {value}");
        write!(f, "--seed {}", self.seed)?;
        if let Some(mutant) = self.mutant.and_then(|mutant| mutant.to_possible_value()) {
            write!(f, " --mutant{}", name(&mutant.get_name()))?;
        }
        if self.clusters < u16::MAX {
            write!(f, " --clusters {}", self.clusters)?;
        }
        if self.length < 100 {
            write!(f, " --length {}", self.length)?;
        }
        let without = self.without.iter().filter_map(ValueEnum::to_possible_value);
        let without: Vec<_> = without.map(|value| value.get_name().to_owned()).collect();
        if without.is_empty() { Ok(()) } else { write!(f, " --without {}", without.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_reduced_to_what_it_needs() {
        // Fails as long as there are crashes, three clusters and a quarter of the time.
        let run = |s: &Scenario| {
            let fails = s.has(Trouble::Crashes) && s.clusters >= 3 && s.length >= 25;
            if fails { Err(Violation("no".to_owned())) } else { Ok(()) }
        };
        let smallest = Scenario::new(7, Some(Mutant::TornLog)).shrink(run);
        assert!((25..28).contains(&smallest.length), "{smallest}");
        let smallest = Scenario { length: 25, ..smallest };
        assert_eq!(
            smallest.to_string(),
            "--seed 7 --mutant torn-log --clusters 3 --length 25 --without \
             network,partitions,crash-at-write,losses,clocks,cuts,restarts,lies"
        );
    }
}
