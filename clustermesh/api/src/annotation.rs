//! Annotations on Kubernetes objects that tombolo reads and writes.

use std::collections::BTreeMap;

use tombolo_model::{Affinity, OnClusterLoss};

/// Backends of the service in other clusters serve it too: `true` or `false` (the default).
pub const GLOBAL: &str = "service.tombolo.io/global";
/// A global service lends its backends to other clusters: `true` (the default) or `false`.
pub const SHARED: &str = "service.tombolo.io/shared";
/// Which backends of a global service come first: `local`, `remote` or `none` (the default).
pub const AFFINITY: &str = "service.tombolo.io/affinity";
/// Whether backends in a cluster that is silent leave the service while others are left: `drain` (the default) or `keep`.
pub const ON_CLUSTER_LOSS: &str = "service.tombolo.io/on-cluster-loss";
/// On the Lease of the clustermesh daemon: `address:port` of the active replica.
pub const ADDRESS: &str = "tombolo.io/address";

/// The same, as Cilium spells them; read where the one of tombolo is missing.
const SYNONYMS: [(&str, &str); 3] = [
    (GLOBAL, "service.cilium.io/global"),
    (SHARED, "service.cilium.io/shared"),
    (AFFINITY, "service.cilium.io/affinity"),
];

/// What the annotations of a Service ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ServiceAnnotations {
    /// Backends of other clusters serve it too.
    pub global: bool,
    /// Global, and lends its backends.
    pub shared: bool,
    /// Which backends come first.
    pub affinity: Affinity,
    /// What becomes of backends in silent clusters.
    pub on_cluster_loss: OnClusterLoss,
}

/// An annotation with a value that it cannot have; it counts as missing.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("annotation {key} is {value:?}: use {allowed}; until then it counts as {default:?}")]
pub struct AnnotationProblem {
    key: &'static str,
    value: String,
    allowed: &'static str,
    default: &'static str,
}

impl ServiceAnnotations {
    /// Reads the annotations of a Service.
    pub fn parse(annotations: &BTreeMap<String, String>) -> (Self, Vec<AnnotationProblem>) {
        let mut problems = Vec::new();
        let global = flag(annotations, GLOBAL, "false", &mut problems);
        let shared = flag(annotations, SHARED, "true", &mut problems);
        let affinity = affinity(annotations, &mut problems);
        let on_cluster_loss = on_cluster_loss(annotations, &mut problems);
        (Self { global, shared: global && shared, affinity, on_cluster_loss }, problems)
    }
}

/// The annotation of this key, or of its synonym, and the key it was found under.
fn find<'a>(annotations: &'a BTreeMap<String, String>, key: &'static str) -> Option<(&'static str, &'a str)> {
    let synonym = SYNONYMS.iter().find(|(own, _)| *own == key).map(|(_, synonym)| *synonym);
    [Some(key), synonym].into_iter().flatten().find_map(|key| Some((key, annotations.get(key)?.as_str())))
}

fn flag(
    annotations: &BTreeMap<String, String>,
    key: &'static str,
    default: &'static str,
    problems: &mut Vec<AnnotationProblem>,
) -> bool {
    match find(annotations, key) {
        Some((_, "true")) => true,
        Some((_, "false")) => false,
        Some((key, value)) => {
            problems.push(AnnotationProblem {
                key,
                value: value.to_owned(),
                allowed: "\"true\" or \"false\"",
                default,
            });
            default == "true"
        }
        None => default == "true",
    }
}

fn affinity(annotations: &BTreeMap<String, String>, problems: &mut Vec<AnnotationProblem>) -> Affinity {
    match find(annotations, AFFINITY) {
        None | Some((_, "none")) => Affinity::None,
        Some((_, "local")) => Affinity::Local,
        Some((_, "remote")) => Affinity::Remote,
        Some((key, value)) => {
            let value = value.to_owned();
            let allowed = "\"local\", \"remote\" or \"none\"";
            problems.push(AnnotationProblem { key, value, allowed, default: "none" });
            Affinity::None
        }
    }
}

fn on_cluster_loss(
    annotations: &BTreeMap<String, String>,
    problems: &mut Vec<AnnotationProblem>,
) -> OnClusterLoss {
    match find(annotations, ON_CLUSTER_LOSS) {
        None | Some((_, "drain")) => OnClusterLoss::Drain,
        Some((_, "keep")) => OnClusterLoss::Keep,
        Some((key, value)) => {
            let (value, allowed) = (value.to_owned(), "\"drain\" or \"keep\"");
            problems.push(AnnotationProblem { key, value, allowed, default: "drain" });
            OnClusterLoss::Drain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> (ServiceAnnotations, Vec<String>) {
        let map = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (parsed, problems) = ServiceAnnotations::parse(&map);
        (parsed, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn reads_own_spelling_and_synonyms() {
        let local = ServiceAnnotations {
            global: true,
            shared: true,
            affinity: Affinity::Local,
            ..Default::default()
        };
        assert_eq!(parse(&[(GLOBAL, "true"), (AFFINITY, "local")]), (local, vec![]));
        let cilium = [("service.cilium.io/global", "true"), ("service.cilium.io/affinity", "local")];
        assert_eq!(parse(&cilium), (local, vec![]));
        let both = [(GLOBAL, "false"), ("service.cilium.io/global", "true")];
        assert_eq!(parse(&both), (ServiceAnnotations::default(), vec![]));
    }

    #[test]
    fn only_a_global_service_is_shared() {
        assert!(!parse(&[]).0.shared && !parse(&[(SHARED, "true")]).0.shared);
        let unshared = parse(&[(GLOBAL, "true"), (SHARED, "false")]).0;
        assert!(unshared.global && !unshared.shared);
    }

    #[test]
    fn wrong_values_are_named_and_count_as_missing() {
        assert_eq!(parse(&[(ON_CLUSTER_LOSS, "keep")]).0.on_cluster_loss, OnClusterLoss::Keep);
        let wrong = [("service.cilium.io/global", "yes"), (AFFINITY, "near"), (ON_CLUSTER_LOSS, "stay")];
        let (parsed, problems) = parse(&wrong);
        assert_eq!(parsed, ServiceAnnotations::default());
        assert_eq!(
            problems,
            [
                "annotation service.cilium.io/global is \"yes\": use \"true\" or \"false\"; until then it counts as \
                 \"false\"",
                "annotation service.tombolo.io/affinity is \"near\": use \"local\", \"remote\" or \"none\"; until \
                 then it counts as \"none\"",
                "annotation service.tombolo.io/on-cluster-loss is \"stay\": use \"drain\" or \"keep\"; until then it \
                 counts as \"drain\"",
            ]
        );
    }
}
