//! What this cluster says about itself in the mesh: its record, kept up to date as nodes and the leader change.

use std::{collections::BTreeSet, convert::Infallible, net::SocketAddr, time::Duration};

use tokio::time::sleep;
use tombolo_mesh_core::membership::{ClusterRecord, ClusterState, Command};
use tombolo_mesh_net::{
    raft::Membership,
    session::{Audience, ExporterHandle},
    tls::AuthorityError,
};
use tombolo_model::{Address, ClusterId, Prefix, Record};
use tracing::{info, warn};

use super::Mesh;

/// Endpoints of a record, at most.
const MAX_ENDPOINTS: usize = 16;
/// Prefixes of each kind in a record, at most; more are made wider.
const MAX_PREFIXES: usize = 128;
/// How long the mesh may take to decide on a new record.
const DECISION: Duration = Duration::from_secs(10);
/// How long to wait after a refusal.
const RETRY: Duration = Duration::from_secs(3);

/// Where the cluster's nodes and pods are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Nodes {
    /// Internal addresses of all nodes.
    pub addresses: Vec<Address>,
    /// Prefixes that their pods have.
    pub pod_prefixes: Vec<Prefix>,
}

impl Nodes {
    /// Of `cluster`, as far as `exporter` knows it.
    pub fn read(exporter: &ExporterHandle, cluster: ClusterId) -> Self {
        exporter.read(Audience::Nodes, |log| {
            let mut nodes = Self::default();
            for record in log.records() {
                if let Record::Node(node) = &**record
                    && node.cluster == cluster
                {
                    nodes.addresses.extend_from_slice(&node.addresses);
                    nodes.pod_prefixes.extend_from_slice(&node.pod_prefixes);
                }
            }
            nodes
        })
    }
}

/// The record as it has to be now, signed; `known` is what the mesh knows, if this cluster is in it. State and
/// incarnation are decided by the mesh when a cluster joins.
pub(super) fn wanted(
    mesh: &Mesh,
    nodes: &Nodes,
    known: Option<&ClusterRecord>,
) -> Result<ClusterRecord, AuthorityError> {
    let mut record = unsigned(mesh, nodes, known.map_or(1, |known| known.incarnation));
    if let Some(known) = known.filter(|known| !known.signature.is_empty()) {
        record.revision = known.revision;
        if record.signed_bytes() == known.signed_bytes() {
            record.signature.clone_from(&known.signature);
            return Ok(record);
        }
    }
    record.revision += 1;
    record.signature = mesh.authority().sign_record(&record.signed_bytes())?;
    Ok(record)
}

/// Without a signature: for a mesh that nobody else is in yet; [`keep`] signs it.
pub(super) fn unsigned(mesh: &Mesh, nodes: &Nodes, incarnation: u32) -> ClusterRecord {
    let config = &mesh.0.config;
    let hosts = nodes.addresses.iter().copied().chain([config.address.ip().into()]);
    ClusterRecord {
        id: config.local.cluster_id,
        name: config.local.cluster.clone(),
        ca: mesh.own_ca(),
        endpoints: endpoints(&config.advertise, config.address, &nodes.addresses),
        node_prefixes: aggregate(hosts.map(Prefix::host).collect(), MAX_PREFIXES),
        pod_prefixes: aggregate(nodes.pod_prefixes.iter().copied().collect(), MAX_PREFIXES),
        features: BTreeSet::new(),
        incarnation,
        state: ClusterState::Active,
        revision: 0,
        signature: Vec::new(),
    }
}

/// The leader first, then where the next leader may be.
fn endpoints(advertise: &[SocketAddr], own: SocketAddr, nodes: &[Address]) -> Vec<SocketAddr> {
    let mut endpoints = advertise.to_vec();
    if endpoints.is_empty() {
        endpoints.push(own);
        let others = nodes.iter().map(|node| SocketAddr::new(node.to_ip(), own.port()));
        endpoints.extend(others.filter(|other| *other != own));
    }
    endpoints.truncate(MAX_ENDPOINTS);
    endpoints
}

/// The same addresses in as few prefixes as possible; when these are still more than `max`, more addresses.
fn aggregate(mut prefixes: BTreeSet<Prefix>, max: usize) -> Vec<Prefix> {
    loop {
        merge(&mut prefixes);
        let longest = prefixes.iter().map(|p| p.bits()).max().unwrap_or(0);
        if prefixes.len() <= max || longest == 0 {
            return prefixes.into_iter().collect();
        }
        let wider = |p: Prefix| if p.bits() == longest { Prefix::new(p.address(), longest - 1) } else { p };
        prefixes = prefixes.into_iter().map(wider).collect();
    }
}

/// Leaves out what another one covers, and joins halves.
fn merge(prefixes: &mut BTreeSet<Prefix>) {
    loop {
        let all: Vec<_> = prefixes.iter().copied().collect();
        let mut merged: Vec<Prefix> = Vec::new();
        for prefix in all {
            // In order of address and then of length, what covers a prefix comes before it.
            if merged.last().is_some_and(|last| last.covers(prefix)) {
                continue;
            }
            let both = |last: Prefix| Prefix::new(last.address(), last.bits().saturating_sub(1));
            match merged.last().copied() {
                Some(last) if last.bits() == prefix.bits() && both(last) == both(prefix) => {
                    merged.pop();
                    merged.push(both(last));
                }
                _ => merged.push(prefix),
            }
        }
        let merged: BTreeSet<_> = merged.into_iter().collect();
        if merged == *prefixes {
            return;
        }
        *prefixes = merged;
    }
}

/// Proposes the record whenever the mesh knows another one.
pub(super) async fn keep(mesh: &Mesh, membership: &Membership) -> Infallible {
    let (mut nodes, mut view) = (mesh.0.parts.nodes.clone(), membership.watch());
    let mut authority = mesh.0.parts.authority.clone();
    let member = view.borrow().status.member;
    loop {
        authority.mark_unchanged();
        let known_nodes = nodes.borrow_and_update().clone();
        let known = view.borrow_and_update().state.clusters.get(&mesh.0.config.local.cluster_id).cloned();
        if let (Some(nodes), Some(known)) = (known_nodes, known)
            && known.member() == member
            && known.state != ClusterState::Lost
        {
            let wanted = wanted(mesh, &nodes, Some(&known)).map_err(|error| error.to_string());
            if wanted.as_ref() != Ok(&known) {
                let decided = match wanted {
                    Ok(wanted) => {
                        let decided = membership.propose(Command::UpdateCluster(wanted), DECISION).await;
                        decided.map_err(|error| error.to_string())
                    }
                    Err(error) => Err(error),
                };
                match decided {
                    Ok(_) => {
                        info!("the mesh knows the current addresses of this cluster");
                        mesh.0.problems.send_modify(|problems| problems.record = None);
                    }
                    Err(error) => {
                        warn!(%error, "the mesh does not take the record of this cluster");
                        mesh.0.problems.send_modify(|problems| problems.record = Some(error));
                        sleep(RETRY).await;
                        continue;
                    }
                }
            }
        }
        let ended = tokio::select! {
            changed = nodes.changed() => changed.is_err(),
            changed = view.changed() => changed.is_err(),
            Ok(()) = authority.changed() => false,
        };
        if ended {
            // Whoever waits for the member learns why it has ended.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(prefixes: &[&str]) -> BTreeSet<Prefix> {
        prefixes.iter().map(|p| p.parse().unwrap()).collect()
    }

    #[test]
    fn halves_are_joined_and_too_many_made_wider() {
        let nodes = ["10.1.0.0/24", "10.1.1.0/24", "10.1.2.0/24", "10.1.3.0/24", "10.1.3.128/25"];
        assert_eq!(aggregate(set(&nodes), 8), Vec::from_iter(set(&["10.1.0.0/22"])));
        let apart = ["10.1.0.0/24", "10.1.4.0/24", "10.9.0.0/16"];
        assert_eq!(aggregate(set(&apart), 3), Vec::from_iter(set(&apart)));
        assert_eq!(aggregate(set(&apart), 2), Vec::from_iter(set(&["10.1.0.0/21", "10.9.0.0/16"])));
    }

    #[test]
    fn the_leader_is_dialled_first() {
        let own = "192.0.2.2:4240".parse().unwrap();
        let nodes = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        assert_eq!(endpoints(&[], own, &nodes), [own, "192.0.2.1:4240".parse().unwrap()]);
        let advertised = ["198.51.100.1:4240".parse().unwrap()];
        assert_eq!(endpoints(&advertised, own, &nodes), advertised);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(addresses in proptest::collection::btree_set(any::<[u8; 4]>(), 0..200), max in 1usize..50) {
            let hosts: BTreeSet<_> =
                addresses.iter().map(|a| Prefix::host(std::net::Ipv4Addr::from(*a).into())).collect();
            let wide = aggregate(hosts.clone(), max);
            prop_assert!(wide.len() <= max);
            prop_assert!(hosts.iter().all(|host| wide.iter().any(|p| p.covers(*host))));
        }
    }
}
