//! Label selectors over the flat labels of an identity.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::Labels;

/// One condition on a label; the semantics of Kubernetes label selectors.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Requirement {
    /// The key exists and its value is one of these.
    In(String, BTreeSet<String>),
    /// The key does not exist, or its value is none of these.
    NotIn(String, BTreeSet<String>),
    /// The key exists.
    Exists(String),
    /// The key does not exist.
    DoesNotExist(String),
}

impl Requirement {
    /// The key exists with exactly this value.
    pub fn equals(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::In(key.into(), BTreeSet::from([value.into()]))
    }

    /// Whether the labels meet it.
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists(key) => labels.get(key).is_some(),
            Self::DoesNotExist(key) => labels.get(key).is_none(),
        }
    }
}

/// All requirements must be met; without any, everything with labels matches. Keys are those of
/// [`label`](crate::label). Equal selectors compare equal whatever order they were written in.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector(pub BTreeSet<Requirement>);

impl Selector {
    /// Whether the labels meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|r| r.matches(labels))
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn follows_kubernetes_semantics() {
        let web = labels(&[("pod:app", "web")]);
        let values = BTreeSet::from(["web".to_owned(), "db".to_owned()]);
        let cases = [
            (Requirement::In("pod:app".into(), values.clone()), true),
            (Requirement::In("pod:tier".into(), values.clone()), false),
            (Requirement::equals("pod:app", "cache"), false),
            (Requirement::NotIn("pod:app".into(), values.clone()), false),
            (Requirement::NotIn("pod:app".into(), ["cache".to_owned()].into()), true),
            (Requirement::NotIn("pod:tier".into(), values), true),
            (Requirement::Exists("pod:app".into()), true),
            (Requirement::Exists("pod:tier".into()), false),
            (Requirement::DoesNotExist("pod:app".into()), false),
            (Requirement::DoesNotExist("pod:tier".into()), true),
            (Requirement::equals("pod:app", "web"), true),
        ];
        for (requirement, expected) in cases {
            assert_eq!(requirement.matches(&web), expected, "{requirement:?}");
        }
        assert!(Selector::default().matches(&web));
        let [met, unmet] = ["web", "db"].map(|app| Requirement::equals("pod:app", app));
        assert!(!Selector::from_iter([met, unmet]).matches(&web), "all of them must be met");
    }
}
