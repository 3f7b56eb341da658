//! Kubernetes label selectors as selectors over the labels of identities.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use tombolo_model::Requirement;

/// An operator that label selectors do not have.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("operator {0:?} does not exist: use In, NotIn, Exists or DoesNotExist")]
pub(super) struct UnknownOperator(String);

/// The requirements of a selector, with `key` naming each label as identities do.
pub(super) fn requirements(
    selector: &LabelSelector,
    key: fn(&str) -> String,
) -> Result<Vec<Requirement>, UnknownOperator> {
    let labels = selector.match_labels.iter().flatten().map(|(k, v)| Ok(Requirement::equals(key(k), v)));
    let expressions = selector.match_expressions.iter().flatten().map(|e| requirement(e, key));
    labels.chain(expressions).collect()
}

/// The keys that a selector names.
pub(super) fn keys(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    let labels = selector.match_labels.iter().flatten().map(|(key, _)| key.as_str());
    labels.chain(selector.match_expressions.iter().flatten().map(|e| e.key.as_str()))
}

fn requirement(
    expression: &LabelSelectorRequirement,
    key: fn(&str) -> String,
) -> Result<Requirement, UnknownOperator> {
    let name = key(&expression.key);
    let values = || expression.values.iter().flatten().cloned().collect();
    match expression.operator.as_str() {
        "In" => Ok(Requirement::In(name, values())),
        "NotIn" => Ok(Requirement::NotIn(name, values())),
        "Exists" => Ok(Requirement::Exists(name)),
        "DoesNotExist" => Ok(Requirement::DoesNotExist(name)),
        other => Err(UnknownOperator(other.to_owned())),
    }
}
