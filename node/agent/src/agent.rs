//! The agent as a whole: puts the parts together and keeps them running.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use kube::Client;
use tokio::{net::TcpListener, runtime::Handle, sync::watch};
use tombolo_loader::Datapath as Loaded;
use tombolo_mesh_net::socket;
use tombolo_model::{Address, TunnelKey};
use tombolo_node_core::{
    policy::SelectorBits,
    state::{OwnNode, State, TableId},
};

use crate::{
    cni::{self, Manager, ManagerConfig},
    config::Config,
    dataplane::{Dataplane, NodeFacts},
    engine::{Engine, KeepBits, TableLane},
    file,
    http::{self, Shown},
    install::Installer,
    intent::Intent,
    key, kubernetes,
    metrics::Metrics,
    netlink::{self, Netlink},
    observe,
    pod_link::{GATEWAY_V4, GATEWAY_V6, HOST_PREFIX},
    session::{self, SessionConfig},
    store::Store,
    sysctl,
    targets::{Peers, Routes, Tunnel, TunnelError, map},
    uapi::Uapi,
    underlay::{self, TUNNEL_OVERHEAD, Underlay},
};

/// How often the tunnel and the devices are looked at without being told.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The same while the tunnel's process does not take its configuration: it has just been started, most likely.
const TUNNEL_AGAIN: Duration = Duration::from_millis(300);

/// How long calls that have begun may take when the agent stops.
const DRAIN: Duration = Duration::from_secs(8);

/// How often the Lease of the leader is read.
const LEADER_AGAIN: Duration = Duration::from_secs(2);

/// The file with the selector bits, inside the runtime directory.
const BITS: &str = "selectors.json";

/// Everything that runs until the end.
struct Running {
    config: Config,
    netlink: Netlink,
    node: kubernetes::OwnNode,
    engine: Engine,
    dataplane: Arc<Dataplane>,
    tunnel: Tunnel,
}

/// Runs the agent until `stop` completes. What it has put into the kernel stays and goes on working.
pub async fn run(config: Config, installer: Installer, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    sysctl::prepare_node()?;
    installer.binary()?;
    let client = Client::try_default().await.context("no access to the API server is configured")?;
    let mut stop = std::pin::pin!(stop);
    let node = tokio::select! {
        node = kubernetes::own_node(&client, &config.node_name) => node,
        () = &mut stop => return Ok(()),
    };
    let netlink = Netlink::new().context("cannot open netlink")?;
    let underlay = underlay::find(&netlink, &config.devices, &node.addresses).await?;
    tracing::info!(?underlay, "underlay found");

    let intent = Arc::new(Intent::new(load_state(&config, &underlay)?));
    let loaded = Loaded::load(&config.pin_dir).context("the BPF programs cannot be loaded")?;
    adopt_services(&intent, &loaded)?;
    let tunnel = tunnel(&config, &underlay)?;
    let engine = start_engine(&config, &intent, &loaded, &netlink, &node, &tunnel)?;
    let dataplane = Arc::new(Dataplane::new(loaded, engine.clone()));
    let running = Running { config, netlink, node, engine, dataplane, tunnel };
    if let Err(e) = running.refresh().await.context("the datapath cannot be attached")? {
        tracing::warn!(error = %e, "the tunnel is not ready");
    }
    running.dataplane.attach_cgroup(&running.config.cgroup_root)?;

    let manager = Arc::new(running.manager(&intent, &installer, &underlay)?);
    manager.adopt().await?;
    let session = running.session(client, &intent)?;
    let metrics = Arc::new(Metrics::default());
    let shown = running.shown(&intent, &manager, &session, &metrics);
    let public = socket::tcp(running.config.metrics_address)
        .and_then(TcpListener::from_std)
        .with_context(|| format!("cannot serve metrics on {}", running.config.metrics_address))?;

    tokio::select! {
        result = cni::serve(&running.config.cni_socket, Arc::clone(&manager), metrics) => result?,
        result = http::serve_public(public, Arc::clone(&shown)) => result.context("metrics")?,
        result = http::serve_local(&running.config.api_socket, shown) => {
            result.with_context(|| format!("cannot listen on {:?}", running.config.api_socket))?;
        }
        result = running.watch() => result?,
        result = drops(&running.dataplane) => result?,
        result = install_when_ready(&intent, &installer) => result?,
        result = save_identities(&intent, &manager) => result?,
        () = &mut stop => {}
    }
    tracing::info!("stopping; the datapath stays as it is");
    manager.drain(DRAIN).await;
    Ok(())
}

impl Running {
    /// Brings programs and tunnel to the devices that there are now. A tunnel that is not ready holds up nothing else.
    async fn refresh(&self) -> anyhow::Result<Result<(), TunnelError>> {
        let underlay = underlay::find(&self.netlink, &self.config.devices, &self.node.addresses).await?;
        let ready = self.tunnel.ensure(&self.netlink).await.map(|configured| {
            if configured {
                self.engine.observe();
            }
        });
        let tunnel = self.netlink.link(&self.config.tunnel_device).await?;
        let facts = NodeFacts {
            addresses: &self.node.addresses,
            masquerade: self.config.masquerade,
            tunnel: tunnel.as_ref(),
        };
        self.dataplane.refresh(&underlay, &facts)?;
        self.dataplane.forget_devices(&self.netlink).await?;
        Ok(ready)
    }

    async fn watch(&self) -> anyhow::Result<()> {
        let mut changes = netlink::watch(HOST_PREFIX).context("cannot watch the network devices")?;
        let (mut wait, mut was_ready) = (LOOK_AGAIN, true);
        loop {
            match tokio::time::timeout(wait, changes.recv()).await {
                Ok(None) => anyhow::bail!("the kernel no longer tells of network devices"),
                Ok(Some(())) => self.engine.observe(),
                Err(_) => {}
            }
            match self.refresh().await {
                Ok(ready) => {
                    wait = if ready.is_ok() { LOOK_AGAIN } else { TUNNEL_AGAIN };
                    if let Err(e) = &ready
                        && was_ready
                    {
                        tracing::warn!(error = %e, "the tunnel is not ready");
                    }
                    was_ready = ready.is_ok();
                }
                Err(e) => {
                    tracing::warn!(error = %format!("{e:#}"), "the datapath could not follow the network devices");
                }
            }
            // Changes come in bursts: at most some passes per second.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn manager(
        &self,
        intent: &Arc<Intent>,
        installer: &Installer,
        underlay: &Underlay,
    ) -> anyhow::Result<Manager> {
        let mtu = self.config.mtu.unwrap_or_else(|| underlay.mtu());
        let config = ManagerConfig {
            runtime_dir: self.config.runtime_dir.clone(),
            del_queue: installer.del_queue.clone(),
            prefixes: self.node.pod_prefixes.clone(),
            host_addresses: self.node.addresses.clone(),
            mtu,
            route_mtu: mtu.saturating_sub(TUNNEL_OVERHEAD),
            identity_wait: Duration::from_secs(5),
        };
        let dataplane: Arc<dyn cni::Datapath> = self.dataplane.clone();
        Ok(Manager::new(config, self.netlink.clone(), Arc::clone(intent), dataplane)?)
    }

    fn session(&self, client: Client, intent: &Arc<Intent>) -> anyhow::Result<session::Session> {
        let tunnel = TunnelKey { public_key: key::public(&self.tunnel.key), port: self.config.tunnel_port };
        let config = SessionConfig {
            cluster: self.config.cluster_name.clone(),
            cluster_id: self.config.cluster_id,
            ca_file: self.config.ca_file.clone(),
            token_file: self.config.token_file.clone(),
            tunnel,
        };
        let servers = servers(client, &self.config);
        session::start(config, servers, Arc::clone(intent))
    }

    fn shown(
        &self,
        intent: &Arc<Intent>,
        manager: &Arc<Manager>,
        session: &session::Session,
        metrics: &Arc<Metrics>,
    ) -> Arc<Shown> {
        Arc::new(Shown {
            config: self.config.clone(),
            intent: Arc::clone(intent),
            engine: self.engine.clone(),
            manager: Arc::clone(manager),
            maps: self.dataplane.maps(),
            metrics: Arc::clone(metrics),
            session: session.status.clone(),
            tunnel: self.tunnel.uapi.clone(),
        })
    }
}

fn load_state(config: &Config, underlay: &Underlay) -> anyhow::Result<State> {
    let endpoints = Store::new(&config.runtime_dir).load()?;
    let path = config.runtime_dir.join(BITS);
    let bits: SelectorBits = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => SelectorBits::default(),
        text => serde_json::from_slice(&text.with_context(|| format!("cannot read {path:?}"))?)
            .with_context(|| format!("{path:?} is damaged: remove it"))?,
    };
    let gateways = [Address::from(GATEWAY_V4), std::net::IpAddr::from(GATEWAY_V6).into()];
    let own = OwnNode {
        cluster: config.cluster_id,
        name: config.node_name.clone(),
        addresses: underlay.addresses.iter().map(|a| Address::from(*a)).chain(gateways).collect(),
    };
    Ok(State::new(own, endpoints, bits))
}

/// Numbers in pinned maps keep their meaning.
fn adopt_services(intent: &Intent, loaded: &Loaded) -> anyhow::Result<()> {
    let maps = loaded.maps();
    let (services, slots) = (map::read(&maps.service()?)?, map::read(&maps.backend_slot()?)?);
    let backends = map::read(&maps.backend()?)?;
    intent.write(|state| state.adopt_services(&services, &slots, &backends));
    Ok(())
}

fn tunnel(config: &Config, underlay: &Underlay) -> anyhow::Result<Tunnel> {
    Ok(Tunnel {
        uapi: Uapi::new(&config.tunnel_socket),
        device: config.tunnel_device.clone(),
        key: key::load_or_create(&config.state_dir)?,
        port: config.tunnel_port,
        mtu: underlay.mtu().saturating_sub(TUNNEL_OVERHEAD),
    })
}

fn start_engine(
    config: &Config,
    intent: &Arc<Intent>,
    loaded: &Loaded,
    netlink: &Netlink,
    node: &kubernetes::OwnNode,
    tunnel: &Tunnel,
) -> anyhow::Result<Engine> {
    let mut lanes = map::lanes(&loaded.maps())?;
    let routes =
        Routes::new(netlink.clone(), Handle::current(), config.tunnel_device.clone(), node.addresses.clone());
    lanes.insert(0, Box::new(TableLane::new(TableId::Route, State::routes, routes)));
    lanes.insert(0, Box::new(TableLane::new(TableId::Peer, State::peers, Peers::new(tunnel.uapi.clone()))));
    let path = config.runtime_dir.join(BITS);
    let keep_bits: KeepBits =
        Box::new(move |bits| file::write_atomically(&path, &serde_json::to_vec(bits)?, 0o600));
    Engine::start(Arc::clone(intent), lanes, keep_bits).context("cannot start the reconciler")
}

/// Where daemons are: as configured, or as the Lease says.
fn servers(client: Client, config: &Config) -> watch::Receiver<Vec<SocketAddr>> {
    let (sender, receiver) = watch::channel(config.daemon_addresses.clone());
    if config.daemon_addresses.is_empty() {
        let namespace = config.namespace.clone();
        tokio::spawn(async move {
            while !sender.is_closed() {
                match kubernetes::leader(&client, &namespace).await {
                    Ok(leader) => {
                        sender.send_if_modified(|now| {
                            let modified = *now != [leader];
                            *now = vec![leader];
                            modified
                        });
                    }
                    Err(e) => tracing::debug!(error = %e, "no leader known"),
                }
                tokio::time::sleep(LEADER_AGAIN).await;
            }
        });
    } else {
        // Kept open: the addresses are final.
        tokio::spawn(async move { sender.closed().await });
    }
    receiver
}

async fn drops(dataplane: &Dataplane) -> anyhow::Result<()> {
    observe::log_drops(&dataplane.maps()).await.context("the datapath's events cannot be read")
}

/// From the first full sync on the runtime may call.
async fn install_when_ready(intent: &Intent, installer: &Installer) -> anyhow::Result<()> {
    let mut changes = intent.changes();
    while intent.unavailable().is_some() {
        changes.changed().await.context("the state is gone")?;
    }
    installer.keep_configuration().await?;
    tracing::info!("ready for pods");
    std::future::pending().await
}

/// Identities change with labels; the file follows, so that a restart begins with the newest.
async fn save_identities(intent: &Intent, manager: &Manager) -> anyhow::Result<()> {
    let mut changes = intent.changes();
    loop {
        changes.changed().await.context("the state is gone")?;
        manager.save()?;
    }
}
