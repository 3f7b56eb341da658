//! The BPF programs on the node's devices, and what they are told about the node.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use tombolo_abi::{Config, ConfigBuilder, ConfigFlags};
use tombolo_loader::{AttachError, Datapath as Loaded, Maps, TableError};
use tombolo_model::Address;
use tombolo_node_core::endpoints::LocalEndpoint;

use crate::{
    cni::Datapath,
    engine::Engine,
    netlink::{Link, Netlink, NetlinkError},
    pod_link::{GATEWAY_V4, GATEWAY_V6},
    underlay::Underlay,
};

/// The loaded programs, and the reconciler that fills their maps.
pub struct Dataplane {
    loaded: Loaded,
    engine: Engine,
    config: Mutex<Option<Config>>,
}

/// Programs or their configuration cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A program.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The devices cannot be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What the programs are told.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// The node's addresses, of which the first of each family hides pods behind it.
    pub addresses: &'a [IpAddr],
    /// Whether pods are hidden at all.
    pub masquerade: bool,
    /// The tunnel's device, once it exists.
    pub tunnel: Option<&'a Link>,
}

impl Dataplane {
    /// Around loaded programs.
    pub const fn new(loaded: Loaded, engine: Engine) -> Self {
        Self { loaded, engine, config: Mutex::new(None) }
    }

    /// The maps.
    pub fn maps(&self) -> Maps {
        self.loaded.maps()
    }

    /// Attaches to all sockets below `cgroup`.
    pub fn attach_cgroup(&self, cgroup: &Path) -> Result<(), DataplaneError> {
        Ok(self.loaded.attach_cgroup(cgroup)?)
    }

    /// Attaches to the underlay and the tunnel as they are now, and tells the programs about the node.
    pub fn refresh(&self, underlay: &Underlay, facts: &NodeFacts<'_>) -> Result<(), DataplaneError> {
        for device in &underlay.devices {
            self.loaded.attach_device(device.index)?;
        }
        if let Some(tunnel) = facts.tunnel {
            self.loaded.attach_mesh(tunnel.index)?;
        }
        let config = config(facts);
        let mut told = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != Some(config) {
            self.loaded.maps().set_config(&config)?;
            *told = Some(config);
        }
        Ok(())
    }

    /// Detaches from devices that do not exist any more.
    pub async fn forget_devices(&self, netlink: &Netlink) -> Result<(), DataplaneError> {
        // In this order: a device that is attached to meanwhile is in neither list, or in the second one.
        let attached = self.loaded.attached_devices()?;
        let links = netlink.links().await?;
        for index in attached {
            if !links.iter().any(|link| link.index == index) {
                self.loaded.detach(index)?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Datapath for Dataplane {
    /// Entries first: a program that finds no entry for its pod drops.
    async fn connect(&self, endpoint: &LocalEndpoint) -> anyhow::Result<()> {
        let failed = self.engine.flush().await?;
        anyhow::ensure!(failed.is_empty(), "maps cannot be written: {}", failed.join("; "));
        self.loaded.attach_pod(endpoint.wiring.ifindex)?;
        Ok(())
    }

    /// The programs go with the device. What cannot be written now is tried again by the reconciler.
    async fn disconnect(&self, endpoint: &LocalEndpoint) {
        if let Err(e) = self.engine.flush().await {
            tracing::warn!(attachment = %endpoint.wiring.attachment, error = %e, "cannot forget a pod");
        }
    }
}

fn config(facts: &NodeFacts<'_>) -> Config {
    let first = |v4: bool| {
        let address = facts.addresses.iter().copied().find(|a| a.is_ipv4() == v4);
        address.map_or([0; 16], |a| Address::from(a).octets())
    };
    let masquerade = if facts.masquerade { ConfigFlags::MASQUERADE } else { ConfigFlags::NONE };
    ConfigBuilder {
        node_v4: first(true),
        node_v6: first(false),
        gateway_v4: Address::from(GATEWAY_V4).octets(),
        gateway_v6: Address::from(IpAddr::from(GATEWAY_V6)).octets(),
        tunnel_ifindex: facts.tunnel.map_or(0, |link| link.index),
        snat_ports: ConfigBuilder::DEFAULT_SNAT_PORTS,
        flags: ConfigFlags::SERVICES.with(masquerade),
    }
    .build()
}
