//! The link of a pod: a veth pair, host prefixes, and a link-local gateway; no bridge.
//!
//! The pod sends everything to a gateway address that no device has; a permanent neighbour entry ties it to the
//! host side. The host reaches the pod by a host route through the same device. Making it is one unit: on any
//! error nothing stays behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tombolo_model::{Address, Prefix};
use tombolo_node_core::endpoints::AttachmentId;

use crate::{
    netlink::{Link, Netlink, NetlinkError, RouteSpec, VethSpec},
    netns::{Netns, NetnsError},
    sysctl,
};

/// The IPv4 gateway of every pod (RFC 3927 link-local).
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The IPv6 gateway of every pod.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// How the host side's name begins.
pub const HOST_PREFIX: &str = "tmb";

/// A pod's link to make.
#[derive(Clone, Debug)]
pub struct PodLinkSpec {
    /// Name on the host.
    pub host_interface: String,
    /// Name in the pod.
    pub interface: String,
    /// MTU of the devices, bytes.
    pub mtu: u32,
    /// MTU of the pod's default route, bytes: what fits through a tunnel.
    pub route_mtu: u32,
    /// The pod's addresses.
    pub addresses: Vec<Address>,
    /// What the host uses as its source towards the pod; its own choice for families without one.
    pub host_addresses: Vec<IpAddr>,
}

/// A pod's link that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// The host side.
    pub host: Link,
    /// The pod side.
    pub pod: Link,
}

/// Why a pod's link cannot be made, or is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum PodLinkError {
    /// The pod has an interface of this name that this agent did not make.
    #[error("interface {0} exists already in the container: choose another CNI_IFNAME or remove it")]
    Exists(String),
    /// The namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    /// See [`verify`].
    #[error("{0}")]
    Changed(String),
}

/// The name of the host side: as good as unique, and found again without any state.
pub fn host_interface(attachment: &AttachmentId) -> String {
    // FNV-1a: the name must stay the same over releases, and nobody gains by choosing it.
    let bytes = attachment.container.bytes().chain([b'/']).chain(attachment.interface.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{HOST_PREFIX}{:011x}", hash >> 20)
}

/// The gateway of the family of `address`.
pub fn gateway(address: Address) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4.into() } else { GATEWAY_V6.into() }
}

/// Makes the link of a pod; on an error nothing is left of it.
pub async fn create(host: &Netlink, netns: &Netns, spec: &PodLinkSpec) -> Result<PodLink, PodLinkError> {
    let inside = netns.netlink().await?;
    // A host side without a known endpoint is what a killed agent left.
    if let Some(leftover) = host.link(&spec.host_interface).await? {
        host.delete_link(leftover.index).await?;
    }
    if inside.link(&spec.interface).await?.is_some() {
        return Err(PodLinkError::Exists(spec.interface.clone()));
    }
    let veth =
        VethSpec { name: &spec.host_interface, peer: &spec.interface, netns: netns.fd(), mtu: spec.mtu };
    host.create_veth(&veth).await?;
    let configured = configure(host, &inside, netns, spec).await;
    if configured.is_err() {
        remove(host, &spec.host_interface).await?;
    }
    configured
}

/// Removes the link with this name on the host, and with it the pod's side; nothing there is no error.
pub async fn remove(host: &Netlink, host_interface: &str) -> Result<(), NetlinkError> {
    match host.link(host_interface).await? {
        Some(link) if link.veth => host.delete_link(link.index).await,
        _ => Ok(()),
    }
}

/// Verifies that the link still is as [`create`] made it; says the first difference.
pub async fn verify(host: &Netlink, netns: &Netns, spec: &PodLinkSpec) -> Result<(), PodLinkError> {
    let changed = |what: String| Err(PodLinkError::Changed(what));
    let Some(outer) = host.link(&spec.host_interface).await? else {
        return changed(format!("interface {} is missing on the host", spec.host_interface));
    };
    let host_routes = host.routes().await?;
    let inside = netns.netlink().await?;
    let Some(inner) = inside.link(&spec.interface).await? else {
        return changed(format!("interface {} is missing in the container", spec.interface));
    };
    for link in [&outer, &inner] {
        if !link.up {
            return changed(format!("interface {} is down", link.name));
        }
    }
    let (addresses, routes) = (inside.addresses().await?, inside.routes().await?);
    for &address in &spec.addresses {
        if !addresses.contains(&(inner.index, address.to_ip())) {
            return changed(format!("address {address} is missing on {} in the container", inner.name));
        }
        let default = |r: &&crate::netlink::Route| {
            r.spec.destination.family_bits() == 0
                && r.spec.gateway == Some(gateway(address))
                && r.spec.device == inner.index
        };
        if routes.iter().find(default).is_none() {
            return changed(format!(
                "the default route via {} is missing in the container",
                gateway(address)
            ));
        }
        let here = |r: &crate::netlink::Route| {
            r.spec.destination == Prefix::host(address) && r.spec.device == outer.index
        };
        if !host_routes.iter().any(here) {
            return changed(format!("the route to {address} through {} is missing on the host", outer.name));
        }
    }
    Ok(())
}

async fn configure(
    host: &Netlink,
    inside: &Netlink,
    netns: &Netns,
    spec: &PodLinkSpec,
) -> Result<PodLink, PodLinkError> {
    let missing = |name: &str| PodLinkError::Changed(format!("interface {name} vanished while it was made"));
    let outer = host.link(&spec.host_interface).await?.ok_or_else(|| missing(&spec.host_interface))?;
    let inner = inside.link(&spec.interface).await?.ok_or_else(|| missing(&spec.interface))?;
    sysctl::prepare_device(&outer.name)?;
    if spec.addresses.iter().all(|a| a.is_ipv4()) {
        sysctl::disable_ipv6(&outer.name)?;
        let name = inner.name.clone();
        netns.run(move || sysctl::disable_ipv6(&name).map_err(std::io::Error::other)).await?;
    }
    inside.set_up(inner.index, spec.mtu).await?;
    for &address in &spec.addresses {
        configure_pod(inside, &inner, outer.mac, address, spec.route_mtu).await?;
        configure_host(host, &outer, inner.mac, address, &spec.host_addresses).await?;
    }
    Ok(PodLink { host: outer, pod: inner })
}

async fn configure_pod(
    inside: &Netlink,
    link: &Link,
    gateway_mac: [u8; 6],
    address: Address,
    mtu: u32,
) -> Result<(), NetlinkError> {
    let gateway = gateway(address);
    inside.add_address(link.index, address.to_ip()).await?;
    inside.set_neighbour(link.index, gateway, gateway_mac).await?;
    let to_gateway = RouteSpec {
        destination: Prefix::host(gateway.into()),
        gateway: None,
        device: link.index,
        source: None,
        mtu: None,
    };
    inside.set_route(&to_gateway).await?;
    let anywhere = if address.is_ipv4() {
        Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 96)
    } else {
        Prefix::new(IpAddr::from(Ipv6Addr::UNSPECIFIED).into(), 0)
    };
    let default = RouteSpec { destination: anywhere, gateway: Some(gateway), mtu: Some(mtu), ..to_gateway };
    inside.set_route(&default).await
}

async fn configure_host(
    host: &Netlink,
    link: &Link,
    pod_mac: [u8; 6],
    address: Address,
    host_addresses: &[IpAddr],
) -> Result<(), NetlinkError> {
    let source = host_addresses.iter().copied().find(|a| a.is_ipv4() == address.is_ipv4());
    let destination = Prefix::host(address);
    host.set_neighbour(link.index, address.to_ip(), pod_mac).await?;
    host.set_route(&RouteSpec { destination, gateway: None, device: link.index, source, mtu: None }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_fit_and_differ() {
        let name = |container: &str, interface: &str| {
            host_interface(&AttachmentId { container: container.into(), interface: interface.into() })
        };
        assert_eq!(name("c1", "eth0").len(), 14);
        assert_eq!(name("c1", "eth0"), name("c1", "eth0"));
        assert_ne!(name("c1", "eth0"), name("c1", "eth1"));
        assert_ne!(name("c1", "eth0"), name("c2", "eth0"));
    }
}
