//! What a test needs, as it says itself in its `#[ignore = "…"]`.
//!
//! The words are `needs WHERE[, WORD…]; SECONDS s[; known to fail: SENTENCE]`. WHERE is `root`, a number of clusters,
//! or `nothing`, for what only takes long; CONTRIBUTING.md lists all words. `runs as a child of TEST` is no registration:
//! such a test is a process that TEST starts ([`crate::source::Function::parent`]).
//! A plain `cargo test` prints them beside each test that it leaves out.

use std::fmt;

use thiserror::Error;

/// Nodes of each cluster, where a test does not say how many.
const NODES: u8 = 2;

/// Longest time that a test may say it takes, in seconds.
const LONGEST: u32 = 3600;

/// The address families of a playground's clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Both, the default.
    Dual,
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone.
    Ipv6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dual => "dual",
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// Where a test runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    /// On the machine, in namespaces that the test makes if it needs any.
    Machine,
    /// On a playground of at least so many clusters with so many nodes each.
    Playground {
        /// Clusters.
        clusters: u8,
        /// Nodes of each cluster.
        nodes: u8,
    },
}

/// Which other tests may run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Company {
    /// All that say the same.
    Any,
    /// None: the test disturbs others, or must not be disturbed.
    None,
    /// None, and none after it: the test leaves the playground changed.
    Last,
}

/// What a test needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Where it runs.
    pub place: Where,
    /// Who may run beside it.
    pub company: Company,
    /// The families of the playgrounds that it runs on, one run for each; only dual for tests without a playground.
    pub families: Vec<Family>,
    /// It belongs to `make test-long` instead of `make test`.
    pub long: bool,
    /// How long it takes on two cores, in seconds, with those beside it.
    pub seconds: u32,
    /// What the product lacks: the test must fail, and say so.
    pub known_to_fail: Option<String>,
}

/// Why the words of a registration cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no registration at all.
    #[error("the reason is {0:?}; write `needs root; 5 s` or `needs 2 clusters; 20 s`")]
    Form(String),
    /// A word that has no meaning.
    #[error(
        "the word {0:?} has no meaning; \
         there are root, nothing, N clusters, N nodes, alone, last, also ipv4, also ipv6 and long"
    )]
    Word(String),
    /// A word that stands there twice, or that another contradicts.
    #[error("the word {0:?} stands twice, or beside one that says otherwise")]
    Twice(String),
    /// A word that only tests on a playground may say.
    #[error("the word {0:?} is about a playground; add a number of clusters, or take it out")]
    NoClusters(String),
    /// Nothing says where the test runs.
    #[error("it says neither `root` nor a number of clusters nor `nothing`")]
    Nowhere,
    /// The time is missing or no number.
    #[error("the time is {0:?}; give it as in `20 s`, at most 3600 s")]
    Seconds(String),
    /// Something after the time that is no known defect.
    #[error("{0:?} stands after the time; only `known to fail: SENTENCE` may")]
    Tail(String),
}

impl Registration {
    /// Reads the reason of an `#[ignore]`. Fails on a word that it does not know, and without a place or a time.
    pub fn parse(reason: &str) -> Result<Self, Unreadable> {
        let mut parts = reason.splitn(3, ';').map(str::trim);
        let words = parts.next().and_then(|part| part.strip_prefix("needs "));
        let words = words.ok_or_else(|| Unreadable::Form(reason.to_owned()))?;
        let mut read = Self {
            place: Where::Machine,
            company: Company::Any,
            families: vec![Family::Dual],
            long: false,
            seconds: seconds(parts.next().unwrap_or_default())?,
            known_to_fail: parts.next().map(known_to_fail).transpose()?,
        };
        let (mut on_machine, mut clusters, mut nodes) = (false, None, NODES);
        let words: Vec<_> = words.split(',').map(str::trim).collect();
        for (index, &word) in words.iter().enumerate() {
            if words[..index].contains(&word) {
                return Err(Unreadable::Twice(word.to_owned()));
            }
            match word {
                "root" | "nothing" => on_machine = true,
                "alone" => read.company = Company::None,
                "last" => read.company = Company::Last,
                "long" => read.long = true,
                "also ipv4" => read.families.push(Family::Ipv4),
                "also ipv6" => read.families.push(Family::Ipv6),
                counted => match count(counted) {
                    Some((number, "cluster" | "clusters")) => clusters = Some(number),
                    Some((number, "nodes")) => nodes = number,
                    _ => return Err(Unreadable::Word(counted.to_owned())),
                },
            }
        }
        read.place = match clusters {
            Some(_) if on_machine => return Err(Unreadable::Twice("root".to_owned())),
            Some(clusters) => Where::Playground { clusters, nodes },
            None if on_machine => {
                let other = words.iter().find(|word| word.starts_with("also ") || word.ends_with(" nodes"));
                if let Some(word) = other {
                    return Err(Unreadable::NoClusters((*word).to_owned()));
                }
                Where::Machine
            }
            None => return Err(Unreadable::Nowhere),
        };
        Ok(read)
    }
}

fn count(words: &str) -> Option<(u8, &str)> {
    let (number, what) = words.split_once(' ')?;
    Some((number.parse().ok().filter(|number| *number > 0)?, what))
}

fn seconds(text: &str) -> Result<u32, Unreadable> {
    let number: Option<u32> = text.strip_suffix(" s").and_then(|number| number.parse().ok());
    number
        .filter(|seconds| (1..=LONGEST).contains(seconds))
        .ok_or_else(|| Unreadable::Seconds(text.to_owned()))
}

fn known_to_fail(text: &str) -> Result<String, Unreadable> {
    let sentence =
        text.strip_prefix("known to fail: ").map(str::trim).filter(|sentence| !sentence.is_empty());
    sentence.map(str::to_owned).ok_or_else(|| Unreadable::Tail(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_understood() {
        let plain = Registration::parse("needs root; 5 s").unwrap();
        assert_eq!(
            (plain.place, plain.company, plain.seconds, plain.long),
            (Where::Machine, Company::Any, 5, false)
        );
        let read = Registration::parse("needs 3 clusters, 6 nodes, last, also ipv6, long; 90 s").unwrap();
        assert_eq!(read.place, Where::Playground { clusters: 3, nodes: 6 });
        assert_eq!((read.company, read.long), (Company::Last, true));
        assert_eq!(read.families, [Family::Dual, Family::Ipv6]);
        let read =
            Registration::parse("needs 1 cluster, alone; 9 s; known to fail: it drops; always").unwrap();
        assert_eq!(read.company, Company::None);
        assert_eq!(read.known_to_fail.as_deref(), Some("it drops; always"));
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let error = |reason: &str| Registration::parse(reason).unwrap_err();
        assert!(matches!(error("slow"), Unreadable::Form(_)));
        assert!(matches!(error("needs rooot; 5 s"), Unreadable::Word(_)));
        assert!(matches!(error("needs 0 clusters; 5 s"), Unreadable::Word(_)));
        assert_eq!(error("needs alone; 5 s"), Unreadable::Nowhere);
        for words in
            ["needs root, root; 5 s", "needs root, 2 clusters; 5 s", "needs 2 clusters, alone, alone; 5 s"]
        {
            assert!(matches!(error(words), Unreadable::Twice(_)), "{words}");
        }
        for words in ["needs root, also ipv6; 5 s", "needs nothing, 6 nodes; 5 s"] {
            assert!(matches!(error(words), Unreadable::NoClusters(_)), "{words}");
        }
        for time in
            ["needs root", "needs root; 5", "needs root; 0 s", "needs root; soon s", "needs root; 3601 s"]
        {
            assert!(matches!(error(time), Unreadable::Seconds(_)), "{time}");
        }
        assert!(matches!(error("needs root; 5 s; flaky"), Unreadable::Tail(_)));
    }
}
