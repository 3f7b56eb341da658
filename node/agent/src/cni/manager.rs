//! The endpoints of this node, from ADD to DEL.
//!
//! The order of ADD makes a `kill -9` harmless at any point: nothing is answered before it is saved, and what is
//! not saved is found again by its name and removed.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};
use tombolo_cni::{
    Failure,
    failure::code,
    name,
    protocol::{Added, Assigned, Attachment, Pod, Request, Response},
};
use tombolo_model::{Address, Prefix};
use tombolo_node_core::{
    endpoints::{AttachmentId, Endpoints, LocalEndpoint, PodRef, Wiring},
    ipam::{self, Ipam, PrefixError},
};

use super::{
    Datapath,
    calls::{Call, Calls},
    failure::IntoFailure,
};
use crate::{
    intent::Intent,
    mac,
    netlink::{Netlink, Removal},
    netns::Netns,
    pod_link::{self, PodLinkSpec},
    store::{Store, StoreError},
};

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Where the endpoints are kept.
    pub runtime_dir: PathBuf,
    /// Where DELs wait that found no agent.
    pub del_queue: PathBuf,
    /// The node's pod prefixes.
    pub prefixes: Vec<Prefix>,
    /// The node's own addresses.
    pub host_addresses: Vec<IpAddr>,
    /// MTU of pod devices, bytes.
    pub mtu: u32,
    /// MTU of pods' default routes, bytes.
    pub route_mtu: u32,
    /// How long ADD waits for the record of its pod.
    pub identity_wait: Duration,
}

/// Makes, keeps and removes endpoints.
pub struct Manager {
    pub(super) config: ManagerConfig,
    pub(super) host: Netlink,
    intent: Arc<Intent>,
    datapath: Arc<dyn Datapath>,
    store: Store,
    started: Instant,
    ipam: Arc<Mutex<Ipam>>,
    /// What was saved last. Saves must not overtake each other.
    saved: Mutex<Option<Endpoints>>,
    calls: Calls,
    running: watch::Sender<usize>,
}

/// A call that is being served; ends when dropped.
pub(super) struct Running<'a>(&'a watch::Sender<usize>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n = n.saturating_sub(1));
    }
}

/// Why the manager cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The node's pod prefixes.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// The state contradicts itself.
    #[error(transparent)]
    Restore(#[from] ipam::RestoreError),
}

impl Manager {
    /// With the endpoints of `intent`, as they were kept. Call [`Manager::adopt`] next.
    pub fn new(
        config: ManagerConfig,
        host: Netlink,
        intent: Arc<Intent>,
        datapath: Arc<dyn Datapath>,
    ) -> Result<Self, ManagerError> {
        let store = Store::new(&config.runtime_dir);
        let mut ipam = Ipam::new(&config.prefixes, ipam::DEFAULT_REST)?;
        for endpoint in intent.read(|state| state.endpoints().clone()).iter() {
            ipam.restore(&endpoint.wiring.attachment, &endpoint.wiring.addresses)?;
        }
        Ok(Self {
            config,
            host,
            intent,
            datapath,
            store,
            started: Instant::now(),
            ipam: Arc::new(Mutex::new(ipam)),
            saved: Mutex::default(),
            calls: Calls::default(),
            running: watch::Sender::new(0),
        })
    }

    /// A copy of the endpoints as they are now.
    pub fn endpoints(&self) -> Endpoints {
        self.intent.read(|state| state.endpoints().clone())
    }

    /// Assignable addresses of each of the node's prefixes, and how many are taken.
    pub fn address_usage(&self) -> Vec<(Prefix, u32, u32)> {
        self.ipam().usage().collect()
    }

    /// Counts a call until it is answered.
    pub(super) fn begin(&self) -> Running<'_> {
        self.running.send_modify(|n| *n = n.saturating_add(1));
        Running(&self.running)
    }

    /// Waits until all calls are answered, but no longer than `limit`: what is cut short is undone at the next
    /// start.
    pub async fn drain(&self, limit: Duration) {
        let mut running = self.running.subscribe();
        if timeout(limit, running.wait_for(|n| *n == 0)).await.is_err() {
            tracing::warn!("stopping in the middle of CNI calls");
        }
    }

    /// Answers one request of the plugin. Nothing in it is trusted.
    pub async fn handle(&self, request: Request) -> Response {
        let result = match request {
            Request::Add { attachment, netns, pod } => {
                self.add(&attachment, &netns, &pod).await.map(Response::Added)
            }
            Request::Del { attachment } => self.del(&attachment).await.map(|()| Response::Done),
            Request::Check { attachment, netns, addresses } => {
                self.check(&attachment, &netns, &addresses).await.map(|()| Response::Done)
            }
            Request::Gc { valid } => self.gc(&valid).await.map(|()| Response::Done),
            Request::Status => self.status().map(|()| Response::Done),
        };
        result.unwrap_or_else(Response::Failed)
    }

    async fn add(&self, attachment: &Attachment, netns: &Path, pod: &Pod) -> Result<Added, Failure> {
        let id = attachment_id(attachment)?;
        let namespace = Netns::open(netns).map_err(|e| e.failure())?;
        let _call = self.calls.begin(&id).await;
        self.refuse_or_forget(&id, &namespace).await?;
        let record = timeout(self.config.identity_wait, self.intent.pod(pod)).await.map_err(|_| {
            let Pod { namespace, name, .. } = pod;
            let why = self.intent.unavailable().unwrap_or("is the pod deleted already?");
            Failure::new(
                code::TRY_AGAIN_LATER,
                format!("the identity of pod {namespace}/{name} is not known yet: {why}"),
            )
        })?;
        let addresses = self.ipam().allocate(&id, self.started.elapsed()).map_err(|e| e.failure())?;
        let pod = PodRef { namespace: record.namespace, name: record.name, uid: record.uid };
        let made = self.wire(&id, &namespace, netns, pod, addresses, record.identity).await;
        if made.is_err() {
            self.ipam().release(&id, self.started.elapsed());
        }
        made
    }

    /// An endpoint of this attachment exists: its interface too, which is an error, or not, which is a leftover.
    async fn refuse_or_forget(&self, id: &AttachmentId, namespace: &Netns) -> Result<(), Failure> {
        let Some(endpoint) = self.endpoint(id) else { return Ok(()) };
        let inside = namespace.netlink().await.map_err(|e| e.failure())?;
        if inside.link(&id.interface).await.map_err(|e| e.failure())?.is_some() {
            return Err(Failure::new(
                code::INTERFACE_EXISTS,
                format!(
                    "interface {} of container {} exists already: call DEL first",
                    id.interface, id.container
                ),
            ));
        }
        self.forget(&endpoint).await?.gone().await.map_err(|e| e.failure())?;
        self.ipam().release(id, self.started.elapsed());
        Ok(())
    }

    async fn wire(
        &self,
        id: &AttachmentId,
        namespace: &Netns,
        netns: &Path,
        pod: PodRef,
        addresses: Vec<Address>,
        identity: tombolo_model::Identity,
    ) -> Result<Added, Failure> {
        let spec = self.spec(id, &addresses);
        let link = pod_link::create(&self.host, namespace, &spec).await.map_err(|e| e.failure())?;
        let wiring = Wiring {
            attachment: id.clone(),
            pod,
            netns: netns.to_string_lossy().into_owned(),
            host_interface: link.host.name.clone(),
            ifindex: link.host.index,
            host_mac: link.host.mac,
            pod_mac: link.pod.mac,
            addresses: addresses.clone(),
            identity,
        };
        let connected = match self.intent.write(|state| state.add_endpoint(wiring)) {
            Ok(_) => self.connect_and_save(id).await,
            Err(e) => Err(Failure::new(code::IO, e.to_string())),
        };
        if let Err(failure) = connected {
            // What cannot be undone now is found by its name at the next ADD, DEL or start.
            let removed = match pod_link::remove(&spec.host_interface).await {
                Ok(removal) => removal.gone().await,
                Err(e) => Err(e),
            };
            if let Err(e) = removed {
                tracing::warn!(attachment = %id, error = %e, "cannot undo a failed ADD");
            }
            return Err(failure);
        }
        Ok(Added {
            host_ifname: link.host.name,
            host_mac: mac::format(link.host.mac),
            mac: mac::format(link.pod.mac),
            mtu: self.config.mtu,
            addresses: addresses
                .into_iter()
                .map(|a| Assigned { address: a.to_ip(), gateway: pod_link::gateway(a) })
                .collect(),
        })
    }

    async fn connect_and_save(&self, id: &AttachmentId) -> Result<(), Failure> {
        let endpoint = self
            .endpoint(id)
            .ok_or_else(|| Failure::new(code::IO, format!("endpoint {id} was removed while it was made")))?;
        let connected = self
            .datapath
            .connect(&endpoint)
            .await
            .map_err(|e| Failure::new(code::KERNEL, format!("the datapath refused the pod: {e:#}")));
        let saved = match connected {
            Ok(()) => self.save().map_err(|e| e.failure()),
            Err(failure) => Err(failure),
        };
        if saved.is_err() {
            self.intent.write(|state| state.remove_endpoint(id));
            self.datapath.disconnect(&endpoint).await;
        }
        saved
    }

    /// DEL: what is gone already is success.
    pub(super) async fn del(&self, attachment: &Attachment) -> Result<(), Failure> {
        self.remove(&attachment_id(attachment)?).await
    }

    /// Returns when nothing of the endpoint is to be found any more. Its address, and the next call for the
    /// attachment, wait until the kernel is done with the devices.
    pub(super) async fn remove(&self, id: &AttachmentId) -> Result<(), Failure> {
        let call = self.calls.begin(id).await;
        let removal = match self.endpoint(id) {
            Some(endpoint) => self.forget(&endpoint).await?,
            None => pod_link::remove(&pod_link::host_interface(id)).await.map_err(|e| e.failure())?,
        };
        self.release_after(removal, id.clone(), call);
        Ok(())
    }

    /// Not saved first, then no longer there: a kill in between leaves a device without an endpoint, which is
    /// removed at the next start. The address is still taken when this returns.
    async fn forget(&self, endpoint: &LocalEndpoint) -> Result<Removal, Failure> {
        let wiring = &endpoint.wiring;
        self.intent.write(|state| state.remove_endpoint(&wiring.attachment));
        self.save().map_err(|e| e.failure())?;
        let (removal, ()) =
            tokio::join!(pod_link::remove(&wiring.host_interface), self.datapath.disconnect(endpoint));
        removal.map_err(|e| e.failure())
    }

    fn release_after(&self, removal: Removal, id: AttachmentId, call: Call) {
        let (ipam, started) = (Arc::clone(&self.ipam), self.started);
        tokio::spawn(async move {
            match removal.gone().await {
                Ok(()) => {
                    ipam.lock().unwrap_or_else(PoisonError::into_inner).release(&id, started.elapsed());
                }
                // The address stays taken; the next DEL or start tries again.
                Err(e) => tracing::error!(attachment = %id, error = %e, "cannot remove a pod's devices"),
            }
            drop(call);
        });
    }

    async fn check(
        &self,
        attachment: &Attachment,
        netns: &Path,
        addresses: &[IpAddr],
    ) -> Result<(), Failure> {
        let id = attachment_id(attachment)?;
        let endpoint = self.endpoint(&id).ok_or_else(|| {
            Failure::new(
                code::UNKNOWN_CONTAINER,
                format!("interface {} of container {} was not made by tombolo", id.interface, id.container),
            )
        })?;
        let has: Vec<IpAddr> = endpoint.wiring.addresses.iter().map(|a| a.to_ip()).collect();
        if let Some(other) = addresses.iter().find(|a| !has.contains(a)) {
            return Err(Failure::new(
                code::CHECK_FAILED,
                format!("prevResult has address {other}, but the pod was given {has:?}"),
            ));
        }
        let namespace = Netns::open(netns).map_err(|e| e.failure())?;
        let spec = self.spec(&id, &endpoint.wiring.addresses);
        pod_link::verify(&self.host, &namespace, &spec).await.map_err(|e| e.failure())
    }

    fn status(&self) -> Result<(), Failure> {
        match self.intent.unavailable() {
            Some(why) => Err(Failure::new(code::NOT_AVAILABLE, why)),
            None => Ok(()),
        }
    }

    /// Connects a kept endpoint again.
    pub(super) async fn reconnect(&self, endpoint: &LocalEndpoint) -> anyhow::Result<()> {
        self.datapath.connect(endpoint).await
    }

    fn spec(&self, id: &AttachmentId, addresses: &[Address]) -> PodLinkSpec {
        PodLinkSpec {
            host_interface: pod_link::host_interface(id),
            interface: id.interface.clone(),
            mtu: self.config.mtu,
            route_mtu: self.config.route_mtu,
            addresses: addresses.to_vec(),
            host_addresses: self.config.host_addresses.clone(),
        }
    }

    /// Saves the endpoints as they are now, unless they are. Also for changes that came with records.
    pub fn save(&self) -> Result<(), StoreError> {
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.endpoints();
        if saved.as_ref() != Some(&now) {
            self.store.save(&now)?;
            *saved = Some(now);
        }
        Ok(())
    }

    fn endpoint(&self, id: &AttachmentId) -> Option<LocalEndpoint> {
        self.intent.read(|state| state.endpoints().by_attachment(id).cloned())
    }

    fn ipam(&self) -> MutexGuard<'_, Ipam> {
        self.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attachment_id(attachment: &Attachment) -> Result<AttachmentId, Failure> {
    let invalid = |e: name::NameError| Failure::new(code::INVALID_ENVIRONMENT, e.to_string());
    name::container_id(&attachment.container_id).map_err(invalid)?;
    name::interface(&attachment.ifname).map_err(invalid)?;
    Ok(AttachmentId { container: attachment.container_id.clone(), interface: attachment.ifname.clone() })
}
