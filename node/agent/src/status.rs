//! The truth about the node's parts, as one document.

use serde_json::{Value, json};

use crate::{http::Shown, uapi::hex};

/// What `tombolo status` reads.
pub fn report(shown: &Shown) -> Value {
    let session = shown.session.borrow().clone();
    let failures: Vec<Value> = shown
        .engine
        .failures()
        .iter()
        .map(|f| json!({"table": format!("{:?}", f.table), "messages": f.messages}))
        .collect();
    let addresses: Vec<Value> = shown
        .manager
        .address_usage()
        .iter()
        .map(|(prefix, size, taken)| json!({"prefix": prefix, "size": size, "taken": taken}))
        .collect();
    let problems: Vec<String> =
        shown.intent.read(|state| state.problems().map(ToString::to_string).collect());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": shown.config.node_name,
        "cluster": {"name": shown.config.cluster_name, "id": shown.config.cluster_id},
        "ready": shown.intent.unavailable().is_none(),
        "notReadyReason": shown.intent.unavailable(),
        "session": {
            "server": session.server,
            "since": session.since,
            "roundTripSeconds": session.rtt.map(|d| d.as_secs_f64()),
            "revisionsBehind": session.lag,
            "lastError": session.last_error,
        },
        "endpoints": shown.manager.endpoints().iter().count(),
        "addresses": addresses,
        "tunnel": tunnel(shown),
        "failures": failures,
        "problems": problems,
        "config": shown.config,
    })
}

fn tunnel(shown: &Shown) -> Value {
    match shown.tunnel.get() {
        Err(e) => json!({"error": e.to_string()}),
        Ok(state) => {
            let peers: Vec<Value> = state
                .peers
                .iter()
                .map(|(key, peer)| {
                    let statistics = state.statistics.get(key).copied().unwrap_or_default();
                    json!({
                        "publicKey": hex(key),
                        "endpoint": format!("{}:{}", peer.endpoint.0, peer.endpoint.1),
                        "allowedPrefixes": peer.allowed_ips,
                        "lastHandshakeUnixSeconds": statistics.last_handshake,
                        "receivedBytes": statistics.received,
                        "sentBytes": statistics.sent,
                    })
                })
                .collect();
            json!({"listenPort": state.listen_port, "peers": peers})
        }
    }
}
