//! The other clusters of the mesh: their sessions, what they say, and whether they are heard.

mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tombolo_mesh_core::{
    membership::{ClusterRecord, MemberId, MeshState, Status},
    replication::{Change, Containment, Delta, Limits, Scope},
    wire::Observation,
};
use tombolo_mesh_net::{
    peer::{Peer, PeerConfig, PeerEvent},
    raft::MeshView,
    session::Backoff,
};
use tombolo_model::{ClusterId, Record};
use tracing::{info, warn};

use self::table::Entry;
pub(super) use self::table::{PeerTable, Sink};
use super::{
    Known, Mesh,
    liveness::{Liveness, Signs},
};

/// Events of peers that may wait.
const EVENTS: usize = 64;
/// Changes that are passed on together, about: whoever sends to nodes waits meanwhile.
const TOGETHER: usize = 1024;
/// How often silence is measured.
const TICK: Duration = Duration::from_millis(250);
/// How long a cluster that was removed is still talked to, at least and at most: its member has to take part in its
/// own removal, and should hear of it.
const FAREWELL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long the own member takes part in its own removal, at most.
const LEAVING: Duration = Duration::from_secs(3);
/// How long the sessions may take to end.
const DISMISSAL: Duration = Duration::from_secs(5);

/// Keeps the [`PeerTable`] as the members decide.
pub(super) struct PeerSet {
    mesh: Mesh,
    sender: mpsc::Sender<(ClusterId, PeerEvent)>,
    events: mpsc::Receiver<(ClusterId, PeerEvent)>,
    /// Peers whose records are being removed.
    clearing: JoinSet<ClusterId>,
    cleared: BTreeSet<ClusterId>,
    liveness: Liveness,
    excluded: BTreeSet<ClusterId>,
    scope: Option<Scope>,
    /// The other members as they are remembered, while the own member has lost its storage.
    remembered: Option<BTreeSet<ClusterId>>,
    /// What the replica that led before has heard, until the members are known.
    held: BTreeMap<ClusterId, Vec<Arc<Record>>>,
}

/// Why a member must not go on.
pub(super) enum Parted {
    /// The mesh has decided to go on without its cluster.
    Removed,
    /// The mesh has a newer member of its cluster.
    Renewed,
}

impl PeerSet {
    pub(super) fn new(mesh: Mesh, records: Vec<Arc<Record>>) -> Self {
        let mut held: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for record in records {
            if let Some(cluster) = record.key().cluster() {
                held.entry(cluster).or_default().push(record);
            }
        }
        let (sender, events) = mpsc::channel(EVENTS);
        let liveness = Liveness::new(mesh.0.config.drain);
        Self {
            mesh,
            sender,
            events,
            clearing: JoinSet::new(),
            cleared: BTreeSet::new(),
            liveness,
            excluded: BTreeSet::new(),
            scope: None,
            remembered: None,
            held,
        }
    }

    /// Follows the mesh until this member has no part in it any more. `described` is the mesh as it was when the member's
    /// log began.
    pub(super) async fn follow(
        &mut self,
        mut view: watch::Receiver<Arc<MeshView>>,
        described: Arc<MeshState>,
    ) -> Parted {
        let mut tick = tick();
        self.remembered = None;
        let mut nodes = self.mesh.0.parts.nodes.clone();
        let mut removed_since = None;
        // Going through all members after each event would cost the square of their number.
        let mut due = true;
        loop {
            let now = {
                let newest = view.borrow_and_update();
                due |= newest.has_changed();
                newest.clone()
            };
            if is_renewed(&now) {
                return Parted::Renewed;
            }
            if is_removed(&now) {
                let since = *removed_since.get_or_insert_with(Instant::now);
                if !takes_part(&now.status, now.status.member) || since.elapsed() >= LEAVING {
                    return Parted::Removed;
                }
            } else if due {
                self.sync(&now, &described);
            }
            due = true;
            tokio::select! {
                changed = view.changed() => if changed.is_err() {
                    // Whoever waits for the member learns why it has ended.
                    std::future::pending::<()>().await;
                },
                Some((cluster, event)) = self.events.recv() => due = self.take_with_waiting(cluster, event),
                Some(cleared) = self.clearing.join_next() => self.forget(&cleared),
                Ok(()) = nodes.changed() => {}
                _ = tick.tick() => {
                    self.judge();
                    due = self.is_parting();
                }
            }
        }
    }

    /// Waits for `wanted`, but not longer than `limit`, while there is no member.
    pub(super) async fn unless<T>(
        &mut self,
        wanted: impl Future<Output = Option<T>>,
        limit: impl Future<Output = ()>,
    ) -> Option<T> {
        tokio::pin!(wanted, limit);
        let mut tick = tick();
        loop {
            let remembered = self.remembered.take();
            self.announce_scope(remembered.as_ref());
            self.remembered = remembered;
            tokio::select! {
                wanted = &mut wanted => return wanted,
                () = &mut limit => return None,
                Some((cluster, event)) = self.events.recv() => self.take(cluster, event),
                _ = tick.tick() => self.judge(),
            }
        }
    }

    /// Keeps the sessions with the others as they are remembered, until there is a member again.
    pub(super) fn remember(&mut self, state: &MeshState) {
        let own = self.mesh.0.config.local.cluster_id;
        let others: Vec<_> = state.others(own).collect();
        for record in &others {
            self.update(record);
        }
        self.remembered = Some(others.iter().map(|record| record.id).collect());
    }

    /// Ends all sessions and removes all that came over them.
    pub(super) async fn dismiss(&mut self) {
        self.remembered = None;
        let all: Vec<_> = self.mesh.0.peers.entries().keys().copied().collect();
        for cluster in all {
            self.remove(cluster);
        }
        let cleared = timeout(DISMISSAL, async {
            while !self.clearing.is_empty() {
                tokio::select! {
                    Some(cleared) = self.clearing.join_next() => self.forget(&cleared),
                    Some((cluster, event)) = self.events.recv() => self.take(cluster, event),
                }
            }
        });
        if cleared.await.is_err() {
            warn!("sessions with other clusters do not end");
        }
        while let Ok((cluster, event)) = self.events.try_recv() {
            self.take(cluster, event);
        }
        self.mesh.0.known.send_replace(None);
    }

    fn sync(&mut self, view: &MeshView, described: &Arc<MeshState>) {
        let own = self.mesh.0.config.local.cluster_id;
        if view.status.applied < view.status.commit && self.mesh.0.known.borrow().is_none() {
            // The member has just started and repeats what it has stored.
            return;
        }
        let caught_up = view.state.clusters.get(&own).is_some_and(|c| c.member() == view.status.member);
        let state = if caught_up { &view.state } else { described };
        self.mesh.0.known.send_replace(Some(Known {
            state: state.clone(),
            status: view.status.clone(),
            caught_up,
        }));
        let others: BTreeMap<_, _> = state.others(own).map(|c| (c.id, c)).collect();
        for record in others.values() {
            if !self.cleared.contains(&record.id) {
                self.update(record);
            }
        }
        self.held.clear();
        self.part(&others, &view.status);
        self.announce_scope(Some(&others.keys().copied().collect()));
    }

    /// Lets a member's record hold.
    fn update(&mut self, record: &ClusterRecord) {
        let mut entries = self.mesh.0.peers.entries();
        let Some(entry) = entries.get_mut(&record.id) else {
            drop(entries);
            return self.meet(record);
        };
        if entry.name != record.name {
            // The id has a new owner, which has to wait for the records of the old one to be gone.
            entry.removed.get_or_insert_with(Instant::now);
            return;
        }
        entry.removed = None;
        entry.member = record.member();
        if entry.ca != record.ca && self.trust(record) {
            entry.ca.clone_from(&record.ca);
        }
        change(&entry.containment, containment(record));
        change(&entry.addresses, record.endpoints.clone());
    }

    /// Begins to listen to a new member.
    fn meet(&mut self, record: &ClusterRecord) {
        if !self.trust(record) {
            return;
        }
        let held = self.held.remove(&record.id).unwrap_or_default();
        info!(cluster = %record.name, id = %record.id, held = held.len(), "cluster of the mesh");
        let (entry, delta) = self.entry(record, held);
        self.mesh.0.peers.entries().insert(record.id, entry);
        self.liveness.doubt(record.id);
        self.take(record.id, PeerEvent::Delta(delta));
    }

    fn trust(&self, record: &ClusterRecord) -> bool {
        let set = self.mesh.0.parts.trust.set_der(&record.name, &record.ca);
        set.inspect_err(|error| warn!(%error, "no session is possible")).is_ok()
    }

    fn entry(&self, record: &ClusterRecord, held: Vec<Arc<Record>>) -> (Entry, Delta) {
        let inner = &self.mesh.0;
        let (containment, contained) = watch::channel(containment(record));
        let (addresses, dialled) = watch::channel(record.endpoints.clone());
        let config = PeerConfig {
            local: inner.config.local.clone(),
            exporter: inner.parts.exporter.clone(),
            containment: contained,
            limits: Limits::default(),
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
            membership: inner.member.subscribe(),
            observation: inner.observation.subscribe(),
        };
        let (peer, delta) = Peer::holding(config, held, self.sender.clone(), inner.parts.stats.clone());
        let (dialling, dialer) = (peer.clone(), inner.parts.dialer.clone());
        let dial = tokio::spawn(async move { dialling.dial(dialer, dialled).await });
        let entry = Entry {
            name: record.name.clone(),
            status: peer.status(),
            peer,
            member: record.member(),
            ca: record.ca.clone(),
            containment,
            addresses,
            complete: false,
            since: Instant::now(),
            removed: None,
            _dial: AbortOnDropHandle::new(dial),
        };
        (entry, delta)
    }

    /// Lets those go who are no members any more.
    fn part(&mut self, others: &BTreeMap<ClusterId, &ClusterRecord>, status: &Status) {
        let mut gone = Vec::new();
        for (id, entry) in self.mesh.0.peers.entries().iter_mut() {
            if !others.contains_key(id) {
                entry.removed.get_or_insert_with(Instant::now);
            }
            let Some(since) = entry.removed else { continue };
            let decided = !takes_part(status, entry.member) && since.elapsed() >= FAREWELL.0;
            if decided || since.elapsed() >= FAREWELL.1 {
                gone.push(*id);
            }
        }
        for id in gone {
            self.remove(id);
        }
    }

    /// Whether there is somebody who is let go after a time.
    fn is_parting(&self) -> bool {
        self.mesh.0.peers.entries().values().any(|entry| entry.removed.is_some())
    }

    /// Ends the session with a cluster and begins to remove its records.
    fn remove(&mut self, cluster: ClusterId) {
        let Some(entry) = self.mesh.0.peers.entries().remove(&cluster) else { return };
        info!(cluster = %entry.name, "cluster has left the mesh");
        self.mesh.0.parts.trust.remove(&entry.name);
        self.cleared.insert(cluster);
        let peer = entry.peer;
        self.clearing.spawn(async move {
            // Fails only when nobody takes events any more.
            let _ = peer.clear().await;
            cluster
        });
    }

    fn forget(&mut self, cleared: &Result<ClusterId, tokio::task::JoinError>) {
        // What the peer has said before stands in the queue in front of what is said from now on.
        while let Ok((cluster, event)) = self.events.try_recv() {
            self.take(cluster, event);
        }
        if let Ok(cluster) = cleared {
            self.cleared.remove(cluster);
        }
    }

    /// Takes what a peer has said, and what others have said by now, as one change: what several of them say of a
    /// service is merged once. Returns whether all that one of them has to say is here now for the first time.
    fn take_with_waiting(&mut self, cluster: ClusterId, event: PeerEvent) -> bool {
        let (mut completes, mut changes) = self.note(cluster, event);
        while changes.len() < TOGETHER
            && let Ok((cluster, event)) = self.events.try_recv()
        {
            let (one, more) = self.note(cluster, event);
            completes |= one;
            changes.extend(more);
        }
        self.pass_on(&changes);
        completes
    }

    fn take(&mut self, cluster: ClusterId, event: PeerEvent) {
        let (_, changes) = self.note(cluster, event);
        self.pass_on(&changes);
    }

    /// Whether all that a peer has to say is here with this event for the first time, and what is to be passed on.
    fn note(&mut self, cluster: ClusterId, event: PeerEvent) -> (bool, Vec<Change>) {
        let PeerEvent::Delta(mut delta) = event else {
            self.liveness.doubt(cluster);
            return (false, Vec::new());
        };
        let mut completes = false;
        match self.mesh.0.peers.entries().get_mut(&cluster) {
            Some(entry) => {
                completes = delta.complete && !entry.complete;
                entry.complete |= delta.complete;
            }
            None => delta.changes.retain(|change| matches!(change, Change::Remove(_))),
        }
        (completes, delta.changes)
    }

    fn pass_on(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        for (key, error) in self.mesh.0.parts.exporter.apply(changes.iter().cloned()).refused {
            warn!(?key, %error, "record of another cluster cannot be sent on");
        }
        // After that: a replica that begins to listen in between has it from the exporter. And nodes come first.
        self.mesh.0.mirror.tell(changes);
    }

    /// Takes the backends of silent clusters out of service, and tells the others who is silent.
    fn judge(&mut self) {
        let (now, inner) = (Instant::now(), &self.mesh.0);
        let entries = inner.peers.entries();
        let signs = |id| {
            let entry: &Entry = entries.get(&id)?;
            let status = entry.status.borrow();
            // Before the first time, since when that is awaited: another replica may have heard of its backends.
            let heard = if status.up { now } else { status.heard.unwrap_or(entry.since) };
            Some(Signs { heard, well: status.up && entry.complete })
        };
        let excluded = self.liveness.judge(now, signs);
        let is_member = |id: &ClusterId| entries.get(id).is_some_and(|entry| entry.removed.is_none());
        let silent = self.liveness.silent().filter(is_member).collect();
        drop(entries);
        if excluded != self.excluded {
            info!(silent = ?excluded, "clusters without traffic from here");
            self.excluded.clone_from(&excluded);
            inner.parts.exporter.set_excluded(excluded);
        }
        let membership = inner.known.borrow().as_ref().map_or(0, |known| known.state.version);
        change(&inner.observation, Observation { silent, membership });
    }

    /// Tells nodes of which clusters they know everything. While the members are not known, that is the own one only.
    fn announce_scope(&mut self, others: Option<&BTreeSet<ClusterId>>) {
        let inner = &self.mesh.0;
        let own = inner.config.local.cluster_id;
        let pending: BTreeSet<_> = match others {
            Some(others) => {
                let entries = inner.peers.entries();
                let complete = |id: &ClusterId| entries.get(id).is_some_and(|entry| entry.complete);
                others.iter().filter(|id| !complete(id)).copied().collect()
            }
            None => {
                (1..=ClusterId::MAX).filter_map(|id| id.try_into().ok()).filter(|id| *id != own).collect()
            }
        };
        inner
            .synced
            .send_if_modified(|synced| std::mem::replace(synced, pending.is_empty()) != pending.is_empty());
        let read = inner.parts.nodes.borrow().is_some();
        let scope = if read { Scope::AllBut(pending) } else { Scope::Nothing };
        if self.scope.as_ref() != Some(&scope) {
            inner.parts.exporter.set_scope(scope.clone());
            self.scope = Some(scope);
        }
    }
}

impl Drop for PeerSet {
    /// Whoever still holds the mesh must not keep the sessions of a replica that does not lead any more.
    fn drop(&mut self) {
        self.mesh.0.member.send_replace(None);
        self.mesh.0.peers.entries().clear();
    }
}

/// Whether the mesh has decided to go on without the member whose view this is.
fn is_removed(view: &MeshView) -> bool {
    let member = view.status.member;
    let retired = member.cluster().and_then(|cluster| view.state.retired.get(&cluster));
    retired.is_some_and(|last| *last >= member.incarnation())
}

/// Whether the mesh has another member of the same cluster, which has taken the place of this one.
fn is_renewed(view: &MeshView) -> bool {
    let member = view.status.member;
    let known = member.cluster().and_then(|cluster| view.state.clusters.get(&cluster));
    known.is_some_and(|record| record.incarnation > member.incarnation())
}

/// How often silence is measured.
fn tick() -> Interval {
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    tick
}

fn takes_part(status: &Status, member: MemberId) -> bool {
    let conf = &status.conf;
    let mut all = conf.voters.iter().chain(&conf.learners).chain(&conf.voters_outgoing);
    all.any(|id| *id == member.get())
}

fn containment(record: &ClusterRecord) -> Containment {
    Containment {
        cluster: record.id,
        name: record.name.clone(),
        node_prefixes: record.node_prefixes.clone(),
        pod_prefixes: record.pod_prefixes.clone(),
    }
}

fn change<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|known| {
        let differs = *known != value;
        if differs {
            *known = value;
        }
        differs
    });
}
