//! Coming back with empty storage: the cluster says, by its authority, that its member begins anew, and any other member
//! brings that before the mesh.

use std::time::Duration;

use tokio::{
    io::join,
    time::{Instant, sleep},
};
use tombolo_mesh_core::{
    membership::{ClusterRecord, Durable, MeshState, Renewal},
    trust::{Service, SpiffeId},
};
use tombolo_mesh_net::{
    join::{self, JoinError, Renewed},
    session::Close,
    tls::Expected,
};
use tracing::info;

use super::Mesh;

/// A member without a leader for this long asks whether the mesh has gone on with a newer one.
const DOUBT: Duration = Duration::from_secs(15);
/// How often a signature is made for another incarnation than was thought.
const CORRECTIONS: usize = 2;

/// The state of the member that comes next, after the mesh has decided on it.
///
/// # Errors
/// One sentence; asking again may help.
pub(super) async fn renew(mesh: &Mesh, known: &MeshState) -> Result<Durable, String> {
    let mut errors = Vec::new();
    for record in others(mesh, known) {
        match renew_at(mesh, known, record).await {
            Ok(durable) => return Ok(durable),
            Err(error) => errors.push(format!("cluster {}: {error}", record.name)),
        }
    }
    if errors.is_empty() {
        return Err("no other cluster can be dialled from here".to_owned());
    }
    Err(errors.join("; "))
}

/// Returns when the mesh has a newer member of this cluster than `incarnation`: that one was stored, and is lost.
pub(super) async fn outdated(mesh: &Mesh, incarnation: u32) -> String {
    let mut since = Instant::now();
    loop {
        sleep(DOUBT / 10).await;
        let known = mesh.0.known.borrow().clone();
        let Some(known) = known.filter(|known| known.status.leader.is_none()) else {
            since = Instant::now();
            continue;
        };
        if since.elapsed() < DOUBT {
            continue;
        }
        since = Instant::now();
        for record in others(mesh, &known.state) {
            let unsigned = renewal(mesh, &known.state, 0);
            if let Ok(Renewed::Expected(next)) = ask(mesh, record, &unsigned).await
                && next > incarnation.saturating_add(1)
            {
                return format!(
                    "cluster {} knows incarnation {} of this cluster's member, here is {incarnation}",
                    record.name,
                    next - 1
                );
            }
        }
    }
}

async fn renew_at(mesh: &Mesh, known: &MeshState, at: &ClusterRecord) -> Result<Durable, String> {
    let own = &mesh.0.config.local;
    let last = known.clusters.get(&own.cluster_id).map_or(0, |record| record.incarnation);
    let mut next = last.saturating_add(1);
    for _ in 0..=CORRECTIONS {
        let mut renewal = renewal(mesh, known, next);
        let signature = mesh.authority().sign_record(&renewal.signed_bytes());
        renewal.signature = signature.map_err(|error| error.to_string())?;
        match ask(mesh, at, &renewal).await.map_err(|error| error.to_string())? {
            Renewed::Expected(expected) => next = expected,
            Renewed::Done(member, state) => {
                let record = state.clusters.get(&own.cluster_id);
                let fits = record.is_some_and(|r| r.name == own.cluster && r.member() == member);
                if state.mesh != known.mesh || member.incarnation() != next || !fits {
                    return Err("its answer contradicts what was asked".to_owned());
                }
                info!(%member, by = %at.name, "the mesh has renewed the member of this cluster");
                return Ok(Durable::joining(member, &state));
            }
        }
    }
    Err("it names another incarnation each time".to_owned())
}

async fn ask(mesh: &Mesh, at: &ClusterRecord, renewal: &Renewal) -> Result<Renewed, JoinError> {
    let refused = |error: &dyn std::fmt::Display| JoinError::Refused(error.to_string());
    let expected = Expected::Id(SpiffeId::Daemon(at.name.clone()));
    let dialer = &mesh.0.parts.dialer;
    let connection = dialer.connect_any(&at.endpoints, &expected, Service::Join).await;
    let connection = connection.map_err(|error| refused(&error))?;
    let (mut send, receive) = connection.open_bi().await.map_err(|error| refused(&error))?;
    let answer = join::renew(&mut join(receive, &mut send), renewal).await;
    connection.close(Close::Done.code(), b"");
    answer
}

fn renewal(mesh: &Mesh, known: &MeshState, incarnation: u32) -> Renewal {
    let cluster = mesh.0.config.local.cluster_id;
    Renewal { mesh: known.mesh, cluster, incarnation, signature: Vec::new() }
}

/// The clusters that can be asked.
fn others<'a>(mesh: &Mesh, known: &'a MeshState) -> impl Iterator<Item = &'a ClusterRecord> {
    let own = mesh.0.config.local.cluster_id;
    known.others(own).filter(|record| !record.endpoints.is_empty())
}
