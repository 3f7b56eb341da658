//! The agent's routes in the main table.

use std::{collections::BTreeMap, net::IpAddr};

use tokio::runtime::Handle;
use tombolo_model::Prefix;
use tombolo_node_core::{reconcile::Target, routes::NextHop};

use crate::netlink::{Netlink, NetlinkError, ROUTE_PROTOCOL, RouteSpec};

/// Routes of protocol [`ROUTE_PROTOCOL`] that are not those of single pods. To be used on a thread that may block.
#[derive(Debug)]
pub struct Routes {
    netlink: Netlink,
    runtime: Handle,
    tunnel_device: String,
    /// What the node uses as its source: an address that the other side knows as a node.
    node_addresses: Vec<IpAddr>,
}

/// Why a route cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The tunnel's device does not exist yet.
    #[error("device {0} does not exist: is tombolo-tunnel running on this node?")]
    NoTunnel(String),
}

impl Routes {
    /// Routes of this namespace; `tunnel_device` leads to other clusters.
    pub fn new(
        netlink: Netlink,
        runtime: Handle,
        tunnel_device: String,
        node_addresses: Vec<IpAddr>,
    ) -> Self {
        Self { netlink, runtime, tunnel_device, node_addresses }
    }

    async fn set(&self, prefix: Prefix, next_hop: NextHop) -> Result<(), RouteError> {
        let source = self.node_addresses.iter().copied().find(|a| a.is_ipv4() == prefix.is_ipv4());
        let spec = match next_hop {
            NextHop::Gateway(gateway) => RouteSpec {
                destination: prefix,
                gateway: Some(gateway.to_ip()),
                device: 0,
                source,
                mtu: None,
            },
            NextHop::Tunnel => {
                let device = self.tunnel_index().await?;
                RouteSpec { destination: prefix, gateway: None, device, source, mtu: None }
            }
        };
        Ok(self.netlink.set_route(&spec).await?)
    }

    async fn tunnel_index(&self) -> Result<u32, RouteError> {
        let link = self.netlink.link(&self.tunnel_device).await?;
        link.map(|l| l.index).ok_or_else(|| RouteError::NoTunnel(self.tunnel_device.clone()))
    }

    async fn all(&self) -> Result<BTreeMap<Prefix, NextHop>, RouteError> {
        let tunnel = self.netlink.link(&self.tunnel_device).await?.map(|l| l.index);
        let routes = self.netlink.routes().await?;
        // Host routes of pods come and go with their devices.
        let own =
            routes.into_iter().filter(|r| r.protocol == ROUTE_PROTOCOL && r.spec.destination.bits() < 128);
        let next_hop = |spec: &RouteSpec| match spec.gateway {
            Some(gateway) => NextHop::Gateway(gateway.into()),
            None if Some(spec.device) == tunnel => NextHop::Tunnel,
            // On a device that is not the tunnel: differs from whatever is desired, and so is replaced.
            None => NextHop::Gateway(spec.destination.address()),
        };
        Ok(own.map(|r| (r.spec.destination, next_hop(&r.spec))).collect())
    }
}

impl Target<Prefix, NextHop> for Routes {
    type Error = RouteError;

    fn update(&mut self, key: &Prefix, value: &NextHop) -> Result<(), RouteError> {
        self.runtime.block_on(self.set(*key, *value))
    }

    fn delete(&mut self, key: &Prefix) -> Result<(), RouteError> {
        Ok(self.runtime.block_on(self.netlink.delete_route(*key))?)
    }

    fn list(&mut self) -> Result<BTreeMap<Prefix, NextHop>, RouteError> {
        self.runtime.block_on(self.all())
    }
}
