//! The agent as a whole: puts the parts together and keeps them running.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use kube::Client;
use tokio::{net::TcpListener, runtime::Handle, sync::watch};
use tombolo_loader::{Datapath as Loaded, Table};
use tombolo_mesh_net::socket;
use tombolo_model::{Address, TunnelKey};
use tombolo_node_core::{
    policy::SelectorBits,
    state::{OwnNode, State, TableId},
};

use crate::{
    cni::{self, Manager, ManagerConfig},
    config::Config,
    connections::Connections,
    dataplane::{Dataplane, NodeFacts},
    engine::{Engine, KeepBits, TableLane},
    file,
    http::{self, Shown},
    install::Installer,
    intent::Intent,
    key, kubernetes,
    metrics::Metrics,
    nat::Nat,
    netlink::{self, Netlink},
    observe,
    pod_link::{GATEWAY_V4, GATEWAY_V6, HOST_PREFIX},
    session::{self, SessionConfig},
    store::Store,
    sysctl,
    targets::{Peers, Routes, Tunnel, TunnelError, map},
    uapi::Uapi,
    underlay::{self, TUNNEL_OVERHEAD, Underlay, UnderlayError},
};

/// How often the tunnel and the devices are looked at without being told.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The same while the tunnel's process does not take its configuration: it has just been started, most likely.
const TUNNEL_AGAIN: Duration = Duration::from_millis(300);

/// The least time between two looks for programs that pods lack.
const RESTORE_PAUSE: Duration = Duration::from_millis(200);

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
    intent: Arc<Intent>,
    engine: Engine,
    dataplane: Arc<Dataplane>,
    tunnel: Tunnel,
    nat: Arc<Nat>,
    connections: Arc<Connections>,
}

/// Runs the agent until `stop` completes. What it has put into the kernel stays and goes on working.
pub async fn run(config: Config, installer: Installer, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    sysctl::prepare_node()?;
    let nat = Arc::new(nat(&config)?);
    if nat.on {
        sysctl::reserve_ports(&nat.ports)?;
    }
    installer.binary()?;
    let client = Client::try_default().await.context("no access to the API server is configured")?;
    let mut stop = std::pin::pin!(stop);
    let node = tokio::select! {
        node = kubernetes::own_node(&client, &config.node_name) => node,
        () = &mut stop => return Ok(()),
    };
    let netlink = Netlink::new().context("cannot open netlink")?;
    let underlay = find_underlay(&netlink, &config, &node.addresses).await?;
    tracing::info!(?underlay, "underlay found");

    let intent = Arc::new(Intent::new(load_state(&config, &underlay)?));
    let loaded = Loaded::load(&config.pin_dir).context("the BPF programs cannot be loaded")?;
    adopt_numbers(&intent, &loaded)?;
    let tunnel = tunnel(&config, &underlay)?;
    let engine = start_engine(&config, &intent, &loaded, &netlink, &node, &tunnel)?;
    let dataplane = Arc::new(Dataplane::new(loaded, engine.clone()));
    let connections = Arc::new(Connections::new(config.connections_per_pod));
    let running = Running { config, netlink, node, intent, engine, dataplane, tunnel, nat, connections };
    running.dataplane.begin_handover()?;
    if let Err(e) = running.refresh().await.context("the datapath cannot be attached")? {
        tracing::warn!(error = %e, "the tunnel is not ready");
    }
    running.dataplane.attach_cgroup(&running.config.cgroup_root)?;

    let manager = Arc::new(running.manager(&installer, &underlay)?);
    let unconnected = manager.adopt().await?;
    running.dataplane.open_connections().await?;
    let session = running.session(client)?;
    let metrics = Arc::new(Metrics::default());
    let shown = running.shown(&manager, &session, &metrics);
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
        result = running.keep_programs() => result?,
        result = running.end_handover(&manager, unconnected) => result?,
        result = drops(&running.dataplane) => result?,
        result = install_when_ready(&running.intent, &installer) => result?,
        result = save_identities(&running.intent, &manager) => result?,
        result = Arc::clone(&running.nat).watch(running.dataplane.maps()) => result?,
        result = Arc::clone(&running.connections).watch(running.dataplane.maps()) => result?,
        () = &mut stop => {}
    }
    tracing::info!("stopping; the datapath stays as it is");
    manager.drain(DRAIN).await;
    Ok(())
}

impl Running {
    /// Brings programs and tunnel to the devices that there are now. A tunnel that is not ready holds up nothing else.
    async fn refresh(&self) -> anyhow::Result<Result<(), TunnelError>> {
        let underlay = find_underlay(&self.netlink, &self.config, &self.node.addresses).await?;
        let ready = self.tunnel.ensure(&self.netlink).await.map(|configured| {
            if configured {
                self.engine.observe();
            }
        });
        let tunnel = self.netlink.link(&self.config.tunnel_device).await?;
        let facts = NodeFacts {
            addresses: &self.node.addresses,
            nat: &self.nat,
            connection_limit: self.connections.limit,
            tunnel: tunnel.as_ref(),
        };
        self.dataplane.refresh(&underlay, &facts)?;
        self.follow_addresses(&underlay);
        self.dataplane.forget_devices(&self.netlink).await?;
        Ok(ready)
    }

    /// Addresses come and go, as those of keepalived or kube-vip do.
    fn follow_addresses(&self, underlay: &Underlay) {
        let addresses = host_addresses(underlay);
        if self.intent.read(|state| state.own().addresses != addresses) {
            tracing::debug!(?addresses, "the node's addresses have changed");
            self.intent.write(|state| state.set_host_addresses(addresses));
        }
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

    /// Programs that somebody takes off a pod's device are put back at once.
    async fn keep_programs(&self) -> anyhow::Result<()> {
        let mut removals = netlink::watch_removals().context("cannot watch the filters of devices")?;
        loop {
            if let Err(e) = self.dataplane.restore_pods(&self.netlink).await {
                tracing::warn!(error = %e, "cannot see to the programs of pods");
            }
            // Whoever removes them again and again keeps nobody busy.
            tokio::time::sleep(RESTORE_PAUSE).await;
            if let Ok(None) = tokio::time::timeout(LOOK_AGAIN, removals.recv()).await {
                anyhow::bail!("the kernel no longer tells of filters");
            }
        }
    }

    /// The programs of another version go once no pod has them any more.
    async fn end_handover(&self, manager: &Manager, mut unconnected: usize) -> anyhow::Result<()> {
        while unconnected > 0 && self.dataplane.is_in_handover() {
            tracing::error!(pods = unconnected, "pods still have the programs of another version");
            tokio::time::sleep(LOOK_AGAIN).await;
            unconnected = manager.reconnect_all().await;
        }
        self.dataplane.end_handover()?;
        std::future::pending().await
    }

    fn manager(&self, installer: &Installer, underlay: &Underlay) -> anyhow::Result<Manager> {
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
        Ok(Manager::new(config, self.netlink.clone(), Arc::clone(&self.intent), dataplane)?)
    }

    fn session(&self, client: Client) -> anyhow::Result<session::Session> {
        let tunnel = TunnelKey { public_key: key::public(&self.tunnel.key), port: self.config.tunnel_port };
        let config = SessionConfig {
            cluster: self.config.cluster_name.clone(),
            cluster_id: self.config.cluster_id,
            ca_file: self.config.ca_file.clone(),
            token_file: self.config.token_file.clone(),
            tunnel,
        };
        let servers = servers(client, &self.config);
        session::start(config, servers, Arc::clone(&self.intent))
    }

    fn shown(
        &self,
        manager: &Arc<Manager>,
        session: &session::Session,
        metrics: &Arc<Metrics>,
    ) -> Arc<Shown> {
        Arc::new(Shown {
            config: self.config.clone(),
            intent: Arc::clone(&self.intent),
            engine: self.engine.clone(),
            manager: Arc::clone(manager),
            maps: self.dataplane.maps(),
            dataplane: Arc::clone(&self.dataplane),
            nat: Arc::clone(&self.nat),
            connections: Arc::clone(&self.connections),
            metrics: Arc::clone(metrics),
            session: session.status.clone(),
            tunnel: self.tunnel.uapi.clone(),
        })
    }
}

async fn find_underlay(
    netlink: &Netlink,
    config: &Config,
    node: &[IpAddr],
) -> Result<Underlay, UnderlayError> {
    underlay::find(netlink, &config.devices, &config.tunnel_device, node).await
}

fn load_state(config: &Config, underlay: &Underlay) -> anyhow::Result<State> {
    let endpoints = Store::new(&config.runtime_dir).load()?;
    let path = config.runtime_dir.join(BITS);
    let bits: SelectorBits = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => SelectorBits::default(),
        text => serde_json::from_slice(&text.with_context(|| format!("cannot read {path:?}"))?)
            .with_context(|| format!("{path:?} is damaged: remove it"))?,
    };
    let own = OwnNode {
        cluster: config.cluster_id,
        name: config.node_name.clone(),
        addresses: host_addresses(underlay),
    };
    Ok(State::new(own, endpoints, bits))
}

/// What the node has on its devices, and the gateway addresses of its pods; in order, so that the same are equal.
fn host_addresses(underlay: &Underlay) -> Vec<Address> {
    let gateways = [Address::from(GATEWAY_V4), std::net::IpAddr::from(GATEWAY_V6).into()];
    let all: BTreeSet<Address> =
        underlay.addresses.iter().map(|a| Address::from(*a)).chain(gateways).collect();
    all.into_iter().collect()
}

/// The ports that masquerading may take; the configuration has been checked.
fn nat(config: &Config) -> anyhow::Result<Nat> {
    let ports = crate::config::nat::ports(&config.nat_ports).context("natPorts are one range or two")?;
    Ok(Nat::new(config.masquerade, ports, config.nat_timeouts.for_datapath()))
}

/// Numbers in pinned maps keep their meaning, and those that connections and sockets remember do not come back.
fn adopt_numbers(intent: &Intent, loaded: &Loaded) -> anyhow::Result<()> {
    let maps = loaded.maps();
    let (services, slots) = (map::read(&maps.service()?)?, map::read(&maps.backend_slot()?)?);
    let backends = map::read(&maps.backend()?)?;
    let of_sockets = maps.socket_backend()?.entries()?.into_iter().map(|(_, value)| value.backend());
    let connections = maps.flow()?.entries()?;
    let of_connections = connections.iter().map(|(_, value)| value.backend());
    let remembered = of_sockets.chain(of_connections).max().unwrap_or(0);
    let openers = connections.iter().flat_map(|(_, value)| [value.opener(), value.answerer()]);
    let masqueraded = maps.snat()?.entries()?.into_iter().map(|(_, value)| value.endpoint());
    let pods = maps.endpoint()?.entries()?.into_iter().map(|(_, value)| value.endpoint());
    let endpoint = openers.chain(masqueraded).chain(pods).max().unwrap_or(0);
    intent.write(|state| {
        state.adopt_services(&services, &slots, &backends, remembered);
        state.adopt_endpoint_numbers(endpoint);
    });
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
    let maps = loaded.maps();
    let advance_epoch = Box::new(move || maps.advance_policy_epoch());
    Engine::start(Arc::clone(intent), lanes, keep_bits, advance_epoch).context("cannot start the reconciler")
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
