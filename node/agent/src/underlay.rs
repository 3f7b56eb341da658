//! The devices that connect the node, and what fits through them.
//!
//! Pods' packets leave only by devices whose packets are judged: those with a route to anywhere.

use std::net::IpAddr;

use crate::netlink::{Link, Netlink, NetlinkError};

/// Bytes that WireGuard adds to a packet when it travels over IPv6: 40 of IPv6, 8 of UDP, 32 of its own.
pub const TUNNEL_OVERHEAD: u32 = 80;

/// Name prefixes of devices that are ours, never the underlay.
const OWN: [&str; 2] = [crate::pod_link::HOST_PREFIX, "tombolo-"];

/// The underlay of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The devices that lead to other nodes.
    pub devices: Vec<Link>,
    /// Further devices that routes lead to: what pods send there is judged as well.
    pub others: Vec<Link>,
    /// Every address of the node.
    pub addresses: Vec<IpAddr>,
}

impl Underlay {
    /// The smallest MTU of its devices, bytes.
    pub fn mtu(&self) -> u32 {
        self.devices.iter().map(|device| device.mtu).min().unwrap_or(1500)
    }
}

/// Why the underlay is not known.
#[derive(Debug, thiserror::Error)]
pub enum UnderlayError {
    /// The kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A configured device is missing.
    #[error("device {0} does not exist: correct devices in the configuration, or leave it out")]
    Missing(String),
    /// None was found.
    #[error(
        "no device has one of the node's addresses {0:?} or the default route: set devices in the configuration"
    )]
    None(Vec<IpAddr>),
}

/// Finds the underlay: the `configured` devices, else those that have one of the node's addresses, and the one with
/// the default route; the latter with all others that routes lead to, except `tunnel`.
pub async fn find(
    netlink: &Netlink,
    configured: &[String],
    tunnel: &str,
    node: &[IpAddr],
) -> Result<Underlay, UnderlayError> {
    let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
    let own = |link: &Link| link.name == tunnel || OWN.iter().any(|prefix| link.name.starts_with(prefix));
    let (devices, others) = if configured.is_empty() {
        let default = default_device(netlink).await?;
        let routed = netlink.routed_devices().await?;
        let has_node_address =
            |link: &Link| addresses.iter().any(|(index, a)| *index == link.index && node.contains(a));
        links
            .iter()
            .filter(|link| link.up && link.name != "lo" && !own(link))
            .filter(|link| has_node_address(link) || routed.contains(&link.index))
            .cloned()
            .partition(|link| has_node_address(link) || default == Some(link.index))
    } else {
        (named(&links, configured)?, Vec::new())
    };
    if devices.is_empty() {
        return Err(UnderlayError::None(node.to_vec()));
    }
    let foreign = |index: u32| links.iter().any(|l| l.index == index && !own(l));
    let addresses =
        addresses.into_iter().filter(|(index, a)| foreign(*index) && !a.is_loopback()).map(|(_, a)| a);
    Ok(Underlay { devices, others, addresses: addresses.collect() })
}

/// The device of the default route that wins.
async fn default_device(netlink: &Netlink) -> Result<Option<u32>, NetlinkError> {
    let routes = netlink.routes().await?;
    let defaults = routes.iter().filter(|r| r.spec.destination.family_bits() == 0 && r.spec.device != 0);
    Ok(defaults.min_by_key(|r| r.priority).map(|r| r.spec.device))
}

fn named(links: &[Link], names: &[String]) -> Result<Vec<Link>, UnderlayError> {
    let find = |name: &String| links.iter().find(|l| l.name == *name).cloned();
    names.iter().map(|name| find(name).ok_or_else(|| UnderlayError::Missing(name.clone()))).collect()
}
