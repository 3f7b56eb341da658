//! All custom resource definitions, as the files that the chart installs.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::{MeshCluster, MeshEndpoint, MeshIdentity, MeshNetworkPolicy, MeshNode, MeshPeer};

/// Every definition, ordered by name.
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![
        MeshCluster::crd(),
        MeshEndpoint::crd(),
        MeshIdentity::crd(),
        MeshNetworkPolicy::crd(),
        MeshNode::crd(),
        MeshPeer::crd(),
    ]
}

/// The name and the text of the file of each definition.
///
/// # Errors
/// A definition that is no YAML, which only a change of the types can bring about.
pub fn files() -> Result<Vec<(String, String)>, serde_yaml_ng::Error> {
    all()
        .iter()
        .map(|crd| {
            let text = serde_yaml_ng::to_string(crd)?;
            let name = format!("{}.yaml", crd.spec.names.plural);
            Ok((name, format!("# Made by `cargo run -p tombolo-api --bin crdgen`; do not edit.\n{text}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn deploy(dir: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(dir)
    }

    #[test]
    fn committed_files_are_current() {
        let dir = deploy("chart/crds");
        let files = files().unwrap();
        for (name, text) in &files {
            let committed = fs::read_to_string(dir.join(name)).unwrap_or_default();
            assert_eq!(&committed, text, "{name} differs: cargo run -p tombolo-api --bin crdgen");
        }
        let expected: BTreeSet<_> = files.into_iter().map(|(name, _)| name).collect();
        let found: BTreeSet<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_kind_has_columns_and_the_category() {
        for crd in all() {
            let names = &crd.spec.names;
            assert_eq!(names.categories.as_deref(), Some(&["tombolo".to_owned()][..]), "{}", names.kind);
            assert!(names.short_names.as_ref().is_some_and(|s| s.len() == 1), "{}", names.kind);
            let columns = crd.spec.versions[0].additional_printer_columns.as_ref();
            assert!(columns.is_some_and(|c| c.len() > 1), "{}", names.kind);
        }
    }

    #[test]
    fn examples_are_valid() {
        let read = |name: &str| fs::read_to_string(deploy("examples").join(name)).unwrap();
        let policy: MeshNetworkPolicy = serde_yaml_ng::from_str(&read("meshnetworkpolicy.yaml")).unwrap();
        assert_eq!(policy.spec.ingress[0].from[0].clusters, Some(vec!["east".to_owned()]));
        let peer = read("meshpeer.yaml");
        let last = serde_yaml_ng::Deserializer::from_str(&peer).last().unwrap();
        let peer: MeshPeer = serde::Deserialize::deserialize(last).unwrap();
        assert_eq!(peer.spec.secret_ref.key, "token");
    }
}
