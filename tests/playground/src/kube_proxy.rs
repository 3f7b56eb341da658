//! kube-proxy, the real one, on every node: services by rules of the node's own network namespace.

use std::env;

use serde_json::json;

use crate::address::ClusterAddresses;
use crate::cluster::Cluster;
use crate::control_plane::{Keys, each, option};
use crate::layout::write;
use crate::spec::KubeProxy;
use crate::unit::Unit;
use crate::{Error, Result};

/// Refuses a mode whose programs this machine does not have.
pub fn check(mode: KubeProxy) -> Result<()> {
    let programs: &[&str] = match mode {
        KubeProxy::None => &[],
        KubeProxy::Iptables => &["iptables", "iptables-restore", "ip6tables"],
        KubeProxy::Nftables => &["nft"],
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let found = |program: &&&str| env::split_paths(&path).any(|directory| directory.join(program).is_file());
    match programs.iter().find(|program| !found(program)) {
        None => Ok(()),
        Some(program) => Err(Error::Missing(format!(
            "kube-proxy is to use {mode}, but there is no `{program}` on this machine; install the package {mode}"
        ))),
    }
}

/// Starts it on a node, whose API object need not be there yet.
pub fn start(cluster: &Cluster, node: &str, keys: &Keys) -> Result<()> {
    let mode = cluster.spec().kube_proxy;
    if mode == KubeProxy::None {
        return Ok(());
    }
    let directory = cluster.layout().node(cluster.name(), node);
    let kubeconfig = directory.join("kube-proxy.kubeconfig");
    keys.kubeconfig(&kubeconfig, "system:kube-proxy", None)?;
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "mode": mode.to_string(),
        "clusterCIDR": each(cluster, ClusterAddresses::pods),
        "hostnameOverride": node,
        // These belong to the machine, and cannot be written in a network namespace.
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    });
    let file = directory.join("kube-proxy.json");
    write(&file, config.to_string())?;
    let arguments = [option("config", file.display()), option("v", 2)];
    Unit::new(&cluster.layout().programs().join("kube-proxy"), arguments, &directory)
        .start(&cluster.node(node)?)
}
