//! The truth about the node's parts, as one document.

use std::{collections::BTreeMap, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use nix::sys::utsname::uname;
use tombolo_loader::drops;
use tombolo_model::{NodeStatus, SessionStatus, TunnelPeerStatus, TunnelStatus};

use crate::{http::Shown, uapi::TunnelState};

/// What `tombolo status` reads.
pub fn report(shown: &Shown) -> NodeStatus {
    let session = shown.session.borrow().clone();
    let tunnel = shown.tunnel.get();
    let mut problems: Vec<String> =
        shown.intent.read(|state| state.problems().map(ToString::to_string).collect());
    problems.extend(shown.intent.unavailable().map(str::to_owned));
    for failed in shown.engine.failures() {
        let first = failed.messages.first().cloned().unwrap_or_default();
        problems.push(format!("the table {:?} cannot be written: {first}", failed.table));
    }
    problems.extend(shown.nat.problems());
    problems.extend(shown.connections.problems(&shown.manager.endpoints()));
    problems.extend(shown.dataplane.guard().problem());
    if session.rtt.is_none() {
        let why = session.last_error.clone().unwrap_or_else(|| "it was not found yet".into());
        problems.push(format!("no session with the cluster's daemon: {why}"));
    }
    if let Err(error) = &tunnel {
        problems.push(format!("the tunnel process does not answer: {error}"));
    }
    NodeStatus {
        node: shown.config.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
        ready: shown.intent.unavailable().is_none(),
        session: SessionStatus {
            daemon: session.server.map(|s| s.to_string()).unwrap_or_default(),
            connected: session.rtt.is_some(),
            synced: shown.intent.unavailable().is_none(),
        },
        counts: counts(shown),
        drops: dropped(shown),
        tunnel: tunnel.map_or_else(|_| TunnelStatus::default(), |state| tunnel_status(shown, &state)),
        problems,
    }
}

fn counts(shown: &Shown) -> BTreeMap<String, u64> {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let local = shown.manager.endpoints().iter().count();
    shown.intent.read(|state| {
        let records = state.records();
        BTreeMap::from([
            ("endpoints".to_owned(), count(local)),
            (
                "remote-endpoints".to_owned(),
                count(records.endpoints().len().saturating_sub(local) + state.foreign_pods()),
            ),
            ("identities".to_owned(), count(records.identities().len())),
            ("nodes".to_owned(), count(records.nodes().len())),
            ("services".to_owned(), count(records.services().len())),
            ("policies".to_owned(), count(records.policies().len())),
        ])
    })
}

fn dropped(shown: &Shown) -> BTreeMap<String, u64> {
    let Ok(all) = drops(&shown.maps) else { return BTreeMap::new() };
    let packets = |count: tombolo_abi::DropCount| {
        [tombolo_abi::Direction::Ingress, tombolo_abi::Direction::Egress]
            .map(|d| count.get(d).packets())
            .iter()
            .sum()
    };
    all.into_iter()
        .map(|(reason, count)| (reason.name().to_owned(), packets(count)))
        .filter(|(_, packets): &(_, u64)| *packets > 0)
        .collect()
}

fn tunnel_status(shown: &Shown, state: &TunnelState) -> TunnelStatus {
    let (own, names) = shown.intent.read(|state| {
        let own = state.own_node().and_then(|node| node.tunnel).map(|t| t.public_key);
        let names: BTreeMap<_, _> = state
            .records()
            .nodes()
            .values()
            .filter_map(|node| Some((node.tunnel?.public_key, format!("{}/{}", node.cluster, node.name))))
            .collect();
        (own, names)
    });
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let peers = state.peers.iter().map(|(key, peer)| {
        let statistics = state.statistics.get(key).copied().unwrap_or_default();
        TunnelPeerStatus {
            node: names.get(key).cloned().unwrap_or_else(|| BASE64_STANDARD.encode(key)),
            endpoint: std::net::SocketAddr::new(peer.endpoint.0.to_ip(), peer.endpoint.1).to_string(),
            handshake_age: (statistics.last_handshake > 0)
                .then(|| now.saturating_sub(statistics.last_handshake)),
            rx_bytes: statistics.received,
            tx_bytes: statistics.sent,
        }
    });
    TunnelStatus {
        running: true,
        public_key: own.map(|key| BASE64_STANDARD.encode(key)).unwrap_or_default(),
        peers: peers.collect(),
    }
}
