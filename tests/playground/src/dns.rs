//! The cluster's DNS: CoreDNS as a Deployment behind the service kube-dns.

use crate::Result;
use crate::address::DNS_SERVICE;
use crate::cluster::Cluster;
use crate::images::DNS;

const MANIFEST: &str = include_str!("../manifests/coredns.yaml");

/// Applies it; its pods are pending until nodes are ready.
pub fn apply(cluster: &Cluster) -> Result<()> {
    let manifest = MANIFEST
        .replace("@IMAGE@", DNS)
        .replace("@API@", &cluster.addresses().control_plane().to_string())
        .replace("@DNS@", &DNS_SERVICE.to_string());
    cluster.kubectl(&["apply", "--server-side", "--filename", "-"], manifest.as_bytes()).map(drop)
}
