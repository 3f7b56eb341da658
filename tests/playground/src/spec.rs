//! What a playground shall look like.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::Family;
use crate::{Error, Result};

/// Most clusters one playground can have; each needs a second octet of 10.0.0.0/8 for its segment.
pub const MAX_CLUSTERS: usize = 32;
/// Most nodes one cluster can have.
pub const MAX_NODES: usize = 64;
/// Most control planes one cluster can have.
pub const MAX_CONTROL_PLANES: usize = 5;
/// Longest cluster name, in bytes.
const MAX_NAME: usize = 32;
/// Directories of the playground that are no cluster's.
const RESERVED: [&str; 4] = ["bin", "images", "tmp", "underlay"];

/// Which CNI plugin the nodes get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Cni {
    /// No configuration: nodes stay NotReady until somebody installs a plugin.
    None,
    /// The reference plugins bridge and host-local, and static routes between the nodes.
    Bridge,
    /// The product, by `tombolo install`.
    Tombolo,
}

/// Which address families machines, pods and services have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 alone.
    Ipv4,
    /// IPv6 alone: no interface but loopback has an IPv4 address.
    Ipv6,
    /// Both; IPv4 is the clusters' first family.
    #[default]
    Dual,
}

impl IpFamily {
    /// The families; a cluster's first one is that of the API server and of services that name none.
    pub fn families(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::V4],
            Self::Ipv6 => &[Family::V6],
            Self::Dual => &[Family::V4, Family::V6],
        }
    }

    /// The first of the families.
    pub fn first(self) -> Family {
        match self {
            Self::Ipv4 | Self::Dual => Family::V4,
            Self::Ipv6 => Family::V6,
        }
    }
}

/// How kube-proxy makes services work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxy {
    /// It does not run.
    #[default]
    None,
    /// By rules of iptables.
    Iptables,
    /// By rules of nftables.
    Nftables,
}

impl fmt::Display for KubeProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

/// The shape of a playground.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Names of the clusters, in the order of their addresses.
    pub clusters: Vec<String>,
    /// Nodes in each cluster, 1 to [`MAX_NODES`].
    pub nodes: usize,
    /// The CNI plugin.
    pub cni: Cni,
    /// The address families.
    pub ip_family: IpFamily,
    /// What kube-proxy does.
    pub kube_proxy: KubeProxy,
    /// Over how many zones the nodes of a cluster are spread in turn, at most as many as nodes; with 0 they are in
    /// none.
    pub zones: usize,
    /// API servers of each cluster, on one etcd, 1 to [`MAX_CONTROL_PLANES`].
    pub control_planes: usize,
}

impl Spec {
    /// Makes a checked spec of dual-stack clusters with one control plane each, without kube-proxy and zones.
    /// `names` may be empty (then clusters are named east, west, north, south, cluster-5, …); else they decide how many
    /// clusters there are.
    pub fn new(clusters: usize, nodes: usize, cni: Cni, names: &[String]) -> Result<Self> {
        if !(1..=MAX_CLUSTERS).contains(&clusters) {
            return invalid(format!("clusters is {clusters}; give a number from 1 to {MAX_CLUSTERS}"));
        }
        if !(1..=MAX_NODES).contains(&nodes) {
            return invalid(format!("nodes is {nodes}; give a number from 1 to {MAX_NODES}"));
        }
        let clusters: Vec<String> =
            if names.is_empty() { (0..clusters).map(default_name).collect() } else { names.to_vec() };
        if clusters.len() > MAX_CLUSTERS {
            return invalid(format!("names has {} names; give at most {MAX_CLUSTERS}", clusters.len()));
        }
        for (i, name) in clusters.iter().enumerate() {
            check_name(name)?;
            if clusters.iter().take(i).any(|other| other == name) {
                return invalid(format!("names has {name:?} twice; give every cluster a name of its own"));
            }
        }
        Ok(Self {
            clusters,
            nodes,
            cni,
            ip_family: IpFamily::default(),
            kube_proxy: KubeProxy::default(),
            zones: 0,
            control_planes: 1,
        })
    }

    /// Refuses what [`Self::new`] could not see.
    pub fn check(&self) -> Result<()> {
        if self.zones > self.nodes {
            return invalid(format!(
                "zones is {}; give at most as many as nodes, which is {}",
                self.zones, self.nodes
            ));
        }
        if !(1..=MAX_CONTROL_PLANES).contains(&self.control_planes) {
            return invalid(format!(
                "control-planes is {}; give a number from 1 to {MAX_CONTROL_PLANES}",
                self.control_planes
            ));
        }
        Ok(())
    }

    /// The zone of the node at `index`, counted from 0.
    pub fn zone(&self, index: usize) -> Option<String> {
        index.checked_rem(self.zones).map(|zone| format!("zone-{}", zone + 1))
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clusters = self.clusters.join(", ");
        write!(f, "{clusters} with {} nodes each, CNI {:?}, {:?}", self.nodes, self.cni, self.ip_family)?;
        if self.kube_proxy != KubeProxy::None {
            write!(f, ", kube-proxy by {}", self.kube_proxy)?;
        }
        if self.zones > 0 {
            write!(f, ", {} zones", self.zones)?;
        }
        if self.control_planes > 1 {
            write!(f, ", {} control planes", self.control_planes)?;
        }
        Ok(())
    }
}

fn default_name(index: usize) -> String {
    match index {
        0 => "east".into(),
        1 => "west".into(),
        2 => "north".into(),
        3 => "south".into(),
        _ => format!("cluster-{}", index + 1),
    }
}

fn check_name(name: &str) -> Result<()> {
    let label = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if RESERVED.contains(&name) {
        return invalid(format!("names has {name:?}, which the playground uses itself; give another name"));
    }
    if label {
        return Ok(());
    }
    invalid(format!(
        "names has {name:?}; give lower-case letters, digits and inner hyphens, at most {MAX_NAME} characters"
    ))
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::Invalid(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_names_are_distinct() {
        let spec = Spec::new(6, 2, Cni::Bridge, &[]).unwrap();
        assert_eq!(spec.clusters, ["east", "west", "north", "south", "cluster-5", "cluster-6"]);
    }

    #[test]
    fn names_override_the_count() {
        let spec = Spec::new(1, 1, Cni::None, &["a".into(), "b-2".into()]).unwrap();
        assert_eq!(spec.clusters, ["a", "b-2"]);
    }

    #[test]
    fn bad_input_names_the_field_and_the_remedy() {
        let names = |n: &str| Spec::new(1, 1, Cni::None, &[n.to_owned()]).unwrap_err().to_string();
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", &"x".repeat(33)] {
            assert!(names(bad).starts_with("names has"), "{bad}");
        }
        assert!(Spec::new(0, 1, Cni::None, &[]).unwrap_err().to_string().contains("1 to 32"));
        assert!(Spec::new(1, 65, Cni::None, &[]).unwrap_err().to_string().contains("1 to 64"));
        assert!(names("underlay").contains("uses itself"));
        let spec = Spec::new(1, 2, Cni::None, &[]).unwrap();
        let zones = Spec { zones: 3, ..spec.clone() }.check().unwrap_err().to_string();
        assert!(zones.contains("which is 2"), "{zones}");
        for control_planes in [0, 6] {
            let error = Spec { control_planes, ..spec.clone() }.check().unwrap_err().to_string();
            assert!(error.contains("1 to 5"), "{error}");
        }
        spec.check().unwrap();
        let many: Vec<String> = (0..33).map(|number| format!("c{number}")).collect();
        assert!(Spec::new(1, 1, Cni::None, &many).unwrap_err().to_string().contains("at most 32"));
        let twice = Spec::new(2, 1, Cni::None, &["a".into(), "a".into()]).unwrap_err();
        assert!(twice.to_string().contains("twice"));
    }

    #[test]
    fn zones_take_turns() {
        let spec = Spec { zones: 2, ..Spec::new(1, 3, Cni::None, &[]).unwrap() };
        let zones: Vec<_> = (0..3).filter_map(|index| spec.zone(index)).collect();
        assert_eq!(zones, ["zone-1", "zone-2", "zone-1"]);
        assert_eq!(Spec { zones: 0, ..spec }.zone(0), None);
    }

    #[test]
    fn spec_survives_its_state_file() {
        let spec = Spec::new(2, 3, Cni::Tombolo, &[]).unwrap();
        let spec = Spec { kube_proxy: KubeProxy::Nftables, zones: 2, control_planes: 3, ..spec };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
    }
}
