//! The link of a pod: a veth pair, host prefixes, and a link-local gateway; no bridge.
//!
//! The pod sends everything to a gateway address that no device has; a permanent neighbour entry ties it to the
//! host side. The host reaches the pod by a host route through the same device. Making it is one unit: on any
//! error nothing stays behind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tombolo_model::{Address, Prefix};
use tombolo_node_core::endpoints::AttachmentId;

use crate::{
    mac,
    netlink::{self, Batch, Link, Netlink, NetlinkError, Removal, RouteSpec, VethSpec},
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
    let link = match create_veth(netns, spec) {
        Err(PodLinkError::Netlink(e)) if e.errno() == Some(libc::EEXIST) => {
            clear_the_way(host, netns, spec).await?;
            create_veth(netns, spec)?
        }
        result => result?,
    };
    if let Err(error) = configure(netns, &link, spec).await {
        remove(&spec.host_interface).await?.gone().await?;
        return Err(error);
    }
    Ok(link)
}

/// Removes the link with this name on the host, and with it the pod's side; nothing there is no error. When this
/// returns, both are out of sight and reach.
pub async fn remove(host_interface: &str) -> Result<Removal, NetlinkError> {
    netlink::remove(host_interface).await
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

fn create_veth(netns: &Netns, spec: &PodLinkSpec) -> Result<PodLink, PodLinkError> {
    let (mac, peer_mac) = (mac::random(), mac::random());
    let (name, peer) = (&spec.host_interface, &spec.interface);
    let veth = VethSpec { name, peer, netns: netns.fd(), mtu: spec.mtu, mac, peer_mac };
    let made = Batch::default().create_veth(&veth).run()?;
    let host = made.into_iter().find(|link| link.name == *name && link.peer != 0).ok_or_else(|| {
        PodLinkError::Changed(format!("interface {name} was made, but the kernel does not show it"))
    })?;
    let pod = Link { index: host.peer, name: peer.clone(), mac: peer_mac, peer: host.index, ..host };
    Ok(PodLink { host, pod })
}

/// One of the names is taken. A host side without a known endpoint is what a killed agent left; in the pod it is
/// somebody else's.
async fn clear_the_way(host: &Netlink, netns: &Netns, spec: &PodLinkSpec) -> Result<(), PodLinkError> {
    if let Some(leftover) = host.link(&spec.host_interface).await? {
        host.delete_link(leftover.index).await?;
    }
    match netns.netlink().await?.link(&spec.interface).await? {
        Some(_) => Err(PodLinkError::Exists(spec.interface.clone())),
        None => Ok(()),
    }
}

/// Both sides at the same time.
async fn configure(netns: &Netns, link: &PodLink, spec: &PodLinkSpec) -> Result<(), PodLinkError> {
    let ipv4_only = spec.addresses.iter().all(|a| a.is_ipv4());
    let (mut inside, name) = (pod_requests(link, spec)?, link.pod.name.clone());
    let pod = netns.run(move || {
        let prepared = if ipv4_only { sysctl::disable_ipv6(&name) } else { Ok(()) };
        Ok(prepared.map_err(PodLinkError::from).and_then(|()| Ok(inside.run()?)))
    });
    let host = async {
        sysctl::prepare_device(&link.host.name)?;
        if ipv4_only {
            sysctl::disable_ipv6(&link.host.name)?;
        }
        Ok::<_, PodLinkError>(host_requests(link, spec)?.run()?)
    };
    // The pod's thread is on its way while this one works.
    let (pod, host) = tokio::join!(pod, host);
    pod??;
    host.map(drop)
}

fn pod_requests(link: &PodLink, spec: &PodLinkSpec) -> Result<Batch, NetlinkError> {
    let (device, mut batch) = (link.pod.index, Batch::default());
    batch.set_up(device);
    for &address in &spec.addresses {
        let gateway = gateway(address);
        batch.add_address(device, address.to_ip()).set_neighbour(device, gateway, link.host.mac);
        let to_gateway = RouteSpec {
            destination: Prefix::host(gateway.into()),
            gateway: None,
            device,
            source: None,
            mtu: None,
        };
        let destination = if address.is_ipv4() {
            Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 96)
        } else {
            Prefix::new(IpAddr::from(Ipv6Addr::UNSPECIFIED).into(), 0)
        };
        let mtu = Some(spec.route_mtu);
        let default = RouteSpec { destination, gateway: Some(gateway), mtu, ..to_gateway };
        batch.set_route(&to_gateway)?.set_route(&default)?;
    }
    Ok(batch)
}

fn host_requests(link: &PodLink, spec: &PodLinkSpec) -> Result<Batch, NetlinkError> {
    let (device, mut batch) = (link.host.index, Batch::default());
    batch.set_up(device);
    for &address in &spec.addresses {
        let source = spec.host_addresses.iter().copied().find(|a| a.is_ipv4() == address.is_ipv4());
        let destination = Prefix::host(address);
        batch.set_neighbour(device, address.to_ip(), link.pod.mac);
        batch.set_route(&RouteSpec { destination, gateway: None, device, source, mtu: None })?;
    }
    Ok(batch)
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
