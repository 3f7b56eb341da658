//! The BPF programs on the node's devices, and what they are told about the node.

use std::{
    net::IpAddr,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tombolo_abi::{Config, ConfigBuilder, ConfigFlags};
use tombolo_loader::{AttachError, Carried, Datapath as Loaded, LoadError, Maps, TableError};
use tombolo_model::Address;
use tombolo_node_core::endpoints::LocalEndpoint;

use crate::{
    cni::Datapath,
    engine::Engine,
    guard::Guard,
    nat::Nat,
    netlink::{Link, Netlink, NetlinkError},
    pod_link::{GATEWAY_V4, GATEWAY_V6},
    underlay::Underlay,
};

/// The loaded programs, and the reconciler that fills their maps.
pub struct Dataplane {
    loaded: Loaded,
    engine: Engine,
    told: Mutex<Told>,
    guard: Guard,
}

/// What the programs have been told.
#[derive(Clone, Copy, Debug)]
struct Told {
    config: Option<Config>,
    /// The phase of a handover.
    handover: ConfigFlags,
}

/// How long a packet that the programs of another version have let through may be on its way to the next of them.
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// Programs or their configuration cannot be put in place.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// A program.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// A map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What the programs of another layout remember.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The devices cannot be listed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What the programs are told.
#[derive(Clone, Copy, Debug)]
pub struct NodeFacts<'a> {
    /// The node's addresses, of which the first of each family hides pods behind it.
    pub addresses: &'a [IpAddr],
    /// Whether pods are hidden at all, and behind which ports.
    pub nat: &'a Nat,
    /// How many connections a pod may have; 0 for as many as there is room.
    pub connection_limit: u32,
    /// The tunnel's device, once it exists.
    pub tunnel: Option<&'a Link>,
}

impl Dataplane {
    /// Around loaded programs.
    pub fn new(loaded: Loaded, engine: Engine) -> Self {
        let told = Mutex::new(Told { config: None, handover: ConfigFlags::NONE });
        Self { loaded, engine, told, guard: Guard::default() }
    }

    /// The maps.
    pub fn maps(&self) -> Maps {
        self.loaded.maps()
    }

    /// What others have removed.
    pub const fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Puts back the programs that somebody has removed from pods' devices; [`Self::refresh`] does it for the others.
    pub async fn restore_pods(&self, netlink: &Netlink) -> Result<(), NetlinkError> {
        self.guard.restore(&self.loaded, netlink).await
    }

    /// Attaches to all sockets below `cgroup`.
    pub fn attach_cgroup(&self, cgroup: &Path) -> Result<(), DataplaneError> {
        Ok(self.loaded.attach_cgroup(cgroup)?)
    }

    /// Tells the programs about the node, and attaches to the underlay and the tunnel as they are now. In this order: a
    /// program that is not told about its node drops.
    pub fn refresh(&self, underlay: &Underlay, facts: &NodeFacts<'_>) -> Result<(), DataplaneError> {
        {
            let mut told = self.told();
            let config = config(facts).in_handover(told.handover);
            if told.config != Some(config) {
                self.loaded.maps().set_config(&config)?;
                told.config = Some(config);
            }
        }
        for device in underlay.devices.iter().chain(&underlay.others) {
            let new = self.loaded.attach_device(device.index)?;
            self.guard.note_device(device.index, &device.name, new);
        }
        if let Some(tunnel) = facts.tunnel {
            let new = self.loaded.attach_mesh(tunnel.index)?;
            self.guard.note_device(tunnel.index, &tunnel.name, new);
        }
        Ok(())
    }

    /// Before the first program is attached: where another version was here last, its programs are to run beside those of
    /// this one, and what they know is carried over.
    pub fn begin_handover(&self) -> Result<(), DataplaneError> {
        if let Some(generation) = self.loaded.generation_before() {
            let Carried { entries, lost } = self.loaded.begin_handover()?;
            tracing::info!(generation, entries, lost, "taking over from the programs of another version");
            self.told().handover = ConfigFlags::BEFORE_OPENS;
        }
        Ok(())
    }

    /// After the last program is attached: connections are opened by those of this version only.
    pub async fn open_connections(&self) -> Result<(), DataplaneError> {
        if !self.is_in_handover() {
            return Ok(());
        }
        // Most of it before, so that little is missing after.
        let Carried { entries, lost } = self.loaded.carry_new()?;
        self.enter_phase(ConfigFlags::BEFORE_KNOWS)?;
        self.loaded.carry_new()?;
        tokio::time::sleep(ON_THE_WAY).await;
        self.loaded.carry_new()?;
        tracing::info!(entries, lost, "connections are opened by the programs of this version");
        Ok(())
    }

    /// Whether the programs of another version still run.
    pub fn is_in_handover(&self) -> bool {
        self.loaded.generation_before().is_some()
    }

    /// After no device has programs of another version any more: lets them go, with their maps.
    pub fn end_handover(&self) -> Result<(), DataplaneError> {
        if let Some(generation) = self.loaded.generation_before() {
            self.enter_phase(ConfigFlags::NONE)?;
            self.loaded.end_handover()?;
            tracing::info!(generation, "the programs of another version are gone");
        }
        Ok(())
    }

    fn enter_phase(&self, phase: ConfigFlags) -> Result<(), DataplaneError> {
        let mut told = self.told();
        told.handover = phase;
        if let Some(config) = told.config {
            let config = config.in_handover(phase);
            self.loaded.maps().set_config(&config)?;
            told.config = Some(config);
        }
        Ok(())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Detaches from devices that do not exist any more.
    pub async fn forget_devices(&self, netlink: &Netlink) -> Result<(), DataplaneError> {
        // In this order: a device that is attached to meanwhile is in neither list, or in the second one.
        let attached = self.loaded.attached_devices()?;
        let links = netlink.links().await?;
        for index in attached {
            if !links.iter().any(|link| link.index == index) {
                self.loaded.detach(index)?;
                self.guard.remove_device(index);
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
        self.guard.add_pod(endpoint.wiring.ifindex);
        Ok(())
    }

    /// The programs go with the device. What cannot be written now is tried again by the reconciler.
    async fn disconnect(&self, endpoint: &LocalEndpoint) {
        self.guard.remove_pod(endpoint.wiring.ifindex);
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
    let masquerade = if facts.nat.on { ConfigFlags::MASQUERADE } else { ConfigFlags::NONE };
    ConfigBuilder {
        node_v4: first(true),
        node_v6: first(false),
        gateway_v4: Address::from(GATEWAY_V4).octets(),
        gateway_v6: Address::from(IpAddr::from(GATEWAY_V6)).octets(),
        tunnel_ifindex: facts.tunnel.map_or(0, |link| link.index),
        nat_ports: facts.nat.ports,
        nat_timeouts: facts.nat.timeouts,
        connection_limit: facts.connection_limit,
        flags: ConfigFlags::SERVICES.with(masquerade),
    }
    .build()
}
