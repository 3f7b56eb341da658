//! What the agent shows: metrics and health to everybody, details to root over a unix socket.

use std::{
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tombolo_loader::Maps;

use crate::{
    cni::{Manager, listen},
    config::Config,
    connections::Connections,
    dataplane::Dataplane,
    engine::Engine,
    intent::Intent,
    maps,
    metrics::{Metrics, TableLabels},
    nat::Nat,
    observe, status,
};

/// Everything that can be shown.
pub struct Shown {
    /// The configuration in effect.
    pub config: Config,
    /// What the node knows.
    pub intent: Arc<Intent>,
    /// The reconciler.
    pub engine: Engine,
    /// The endpoints.
    pub manager: Arc<Manager>,
    /// The BPF maps.
    pub maps: Maps,
    /// The connections of pods.
    pub connections: Arc<Connections>,
    /// The programs.
    pub dataplane: Arc<Dataplane>,
    /// The ports of masquerading.
    pub nat: Arc<Nat>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The session.
    pub session: tokio::sync::watch::Receiver<tombolo_mesh_net::node::NodeStatus>,
    /// The tunnel.
    pub tunnel: crate::uapi::Uapi,
}

/// Serves metrics and health over TCP.
pub async fn serve_public(listener: TcpListener, shown: Arc<Shown>) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(shown);
    axum::serve(listener, router).await
}

/// Serves details over a unix socket that only root can open.
pub async fn serve_local(path: &Path, shown: Arc<Shown>) -> io::Result<()> {
    let listener: UnixListener = listen(path)?;
    let router = Router::new()
        .route("/v1/status", get(|State(s): State<Arc<Shown>>| async move { Json(status::report(&s)) }))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/services", get(services))
        .route("/v1/bpf/{map}", get(bpf))
        .with_state(shown);
    axum::serve(listener, router).await
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    let metrics = &shown.metrics;
    metrics.endpoints.set(i64::try_from(shown.manager.endpoints().iter().count()).unwrap_or(i64::MAX));
    metrics.synced.set(i64::from(shown.intent.unavailable().is_none()));
    metrics.table_failures.clear();
    for failures in shown.engine.failures() {
        let labels = TableLabels { table: format!("{:?}", failures.table).to_lowercase() };
        let count = i64::try_from(failures.messages.len()).unwrap_or(i64::MAX);
        metrics.table_failures.get_or_create(&labels).set(count);
    }
    let usage = shown.nat.usage();
    metrics.nat_connections.set(i64::from(usage.connections));
    metrics.nat_port_usage.set(usage.part_of_ports(&shown.nat.ports));
    let count = shown.connections.count();
    metrics.connections.set(i64::from(count.entries));
    metrics.busiest_pod_connections.set(count.busiest().map_or(0, |(_, _, has)| i64::from(has)));
    let guard = shown.dataplane.guard();
    metrics.filters_reattached.inner().store(guard.put_back(), Ordering::Relaxed);
    metrics.unjudged_packets.inner().store(guard.unjudged(), Ordering::Relaxed);
    if let Err(e) = observe::collect_drops(&shown.maps, metrics) {
        tracing::warn!(error = %e, "cannot read the datapath's counters");
    }
    match metrics.text() {
        Ok(text) => ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    match shown.intent.unavailable() {
        None => "ok".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn endpoints(State(shown): State<Arc<Shown>>) -> Json<Value> {
    let endpoints = shown.manager.endpoints();
    Json(json!(endpoints.iter().collect::<Vec<_>>()))
}

async fn services(State(shown): State<Arc<Shown>>) -> Json<Value> {
    Json(shown.intent.read(|state| json!(state.records().services().values().collect::<Vec<_>>())))
}

async fn bpf(State(shown): State<Arc<Shown>>, UrlPath(map): UrlPath<String>) -> Response {
    match maps::list(&shown.maps, &map) {
        None => {
            let known = maps::names().join(", ");
            (StatusCode::NOT_FOUND, format!("map {map:?} is unknown: use one of {known}\n")).into_response()
        }
        Some(Err(e)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")).into_response(),
        Some(Ok(entries)) => Json(entries).into_response(),
    }
}
