//! Addresses of what a test makes, one of each family of the playground, the cluster's first family first.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, ensure};
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::machine::machines;

/// The addresses of a pod of this cluster. Fails unless there is one of each family.
pub fn pod_ips(cluster: &str, pod: &Pod) -> anyhow::Result<Vec<IpAddr>> {
    let status = pod.status.as_ref().context("the pod has no status")?;
    of_each_family(cluster, status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()))
}

/// The addresses of a service of this cluster. Fails unless there is one of each family.
pub fn service_ips(cluster: &str, service: &Service) -> anyhow::Result<Vec<IpAddr>> {
    let spec = service.spec.as_ref().context("the service has no spec")?;
    of_each_family(cluster, spec.cluster_ips.iter().flatten().map(String::as_str))
}

/// The URL of a server of HTTP.
pub fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}/", SocketAddr::new(address, port))
}

fn of_each_family<'a>(cluster: &str, texts: impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<IpAddr>> {
    let addresses: Vec<IpAddr> = texts.map(str::parse).collect::<Result<_, _>>()?;
    let wanted = machines(cluster)?.plans().map(|plan| plan.router().is_ipv4());
    let found = addresses.iter().map(IpAddr::is_ipv4);
    ensure!(found.eq(wanted), "{cluster} gave {addresses:?}, not one address of each of its families");
    Ok(addresses)
}
