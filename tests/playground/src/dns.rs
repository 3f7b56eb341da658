//! The cluster's DNS: CoreDNS as a Deployment behind the service kube-dns.

use crate::Result;
use crate::cluster::Cluster;
use crate::control_plane;
use crate::images::DNS;
use crate::spec::Cni;

const MANIFEST: &str = include_str!("../manifests/coredns.yaml");

/// What tells CoreDNS the API server's own address.
const API_ADDRESS: &str = include_str!("../manifests/coredns-api-address.yaml");

/// Applies it; its pods are pending until nodes are ready. Under bridge nobody makes service addresses work, so that
/// it is told the API server's own address.
pub fn apply(cluster: &Cluster, cni: Cni) -> Result<()> {
    let api_address = if cni == Cni::Bridge { API_ADDRESS.trim_end() } else { "        env: []" };
    let services: Vec<_> = cluster.plans().map(|plan| plan.family().dns_service()).collect();
    let first = cluster.addresses().family().dns_service();
    let manifest = MANIFEST
        .replace("        env: @API_ADDRESS@", api_address)
        .replace("@IMAGE@", DNS)
        .replace("@API@", &control_plane::outer_address(cluster).ip().to_string())
        .replace("@FIRST@", &first.to_string())
        .replace("@ALL@", &serde_json::json!(services).to_string());
    cluster.kubectl(&["apply", "--server-side", "--filename", "-"], manifest.as_bytes()).map(drop)
}
