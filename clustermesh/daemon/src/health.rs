//! `/livez`, `/readyz` and `/metrics`.

use std::net::SocketAddr;

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::net::TcpListener;
use tombolo_mesh_net::socket;

use crate::status::{Shared, Status};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

/// Serves until dropped.
///
/// # Errors
/// The address is taken.
pub async fn serve(address: SocketAddr, status: Shared) -> std::io::Result<()> {
    let router = Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(status);
    axum::serve(TcpListener::from_std(socket::tcp(address)?)?, router).await
}

/// A replica that waits is ready to take over; one that leads is ready once it knows its cluster.
async fn ready(State(status): State<Shared>) -> (StatusCode, &'static str) {
    let Status { leader, complete, .. } = status.get();
    match (leader, complete) {
        (false, _) => (StatusCode::OK, "ok, another replica leads"),
        (true, true) => (StatusCode::OK, "ok, leading"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "leading, the cluster is still being read"),
    }
}

async fn metrics(State(status): State<Shared>) -> Result<String, StatusCode> {
    render(&status.get()).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
}

fn render(status: &Status) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("tombolo_clustermesh");
    let leader: Gauge = Gauge::default();
    leader.set(status.leader.into());
    registry.register("leader", "1 while this replica leads", leader);
    let complete: Gauge = Gauge::default();
    complete.set(status.complete.into());
    registry.register("complete", "1 once everything of the cluster has been read", complete);
    let records = Family::<KindLabel, Gauge>::default();
    for (kind, count) in &status.records {
        let label = KindLabel { kind: kind.clone() };
        records.get_or_create(&label).set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    registry.register("records", "Records of the own cluster by kind", records);
    let transactions: Gauge = Gauge::default();
    transactions.set(i64::try_from(status.transactions).unwrap_or(i64::MAX));
    registry.register("transactions", "Transactions given out since this replica leads", transactions);
    let sessions: Gauge = Gauge::default();
    sessions.set(i64::try_from(status.sessions.len()).unwrap_or(i64::MAX));
    registry.register("node_sessions", "Nodes with a session", sessions);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use tombolo_model::{ClusterId, Kind};

    use super::*;

    #[test]
    fn metrics_are_named_and_labelled() {
        let shared = Shared::new("east".parse().unwrap(), ClusterId::try_from(1).unwrap(), "pod".to_owned());
        shared.lead(true);
        shared.count(&[(Kind::Identity, 1)].into());
        let text = render(&shared.get()).unwrap();
        assert!(text.contains("tombolo_clustermesh_leader 1"), "{text}");
        assert!(text.contains("tombolo_clustermesh_records{kind=\"identities\"} 1"), "{text}");
        assert!(text.contains("tombolo_clustermesh_records{kind=\"policies\"} 0"), "{text}");
    }
}
