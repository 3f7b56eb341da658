//! What a session costs that begins again.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tombolo_mesh_core::{
    replication::{Change, Scope},
    wire::encode_change,
};
use tombolo_mesh_net::{
    peer::PeerEvent,
    session::{Audience, ExporterHandle},
    tls::TrustStore,
    transport::Stats,
};
use tombolo_model::{ClusterId, Record};

use super::{
    generated::Cluster,
    peers::{ANY, Session},
};
use crate::{
    Benchmark, Context,
    client::runtime,
    measure::{Comparison, Result, summarize},
};

/// Objects of the exporter, of which one in a thousand changes.
const OBJECTS: u32 = 50_000;
/// What may be sent besides twice the changes, bytes.
const ALLOWANCE: f64 = 65_536.0;
const LIMIT: Duration = Duration::from_secs(60);

type Events = mpsc::Receiver<(ClusterId, PeerEvent)>;

/// `mesh.resume` and `mesh.resume.other`.
pub const RESUME: Benchmark = Benchmark {
    names: &["mesh.resume", "mesh.resume.other"],
    measures: "bytes of frames in both directions that a peer with 50,000 objects costs when its session begins again \
        after one object in a thousand has changed, against twice the bytes of the changes and 64 KiB: with the same \
        replica, and with another one, which has another history",
    leaves_out: "headers of QUIC, UDP and IP; the TLS handshake",
    run: resume,
};

fn resume(context: &Context) -> anyhow::Result<Vec<Result>> {
    let mut results = Vec::new();
    for (name, other) in [("mesh.resume", false), ("mesh.resume.other", true)] {
        let what =
            Comparison { name, unit: "bytes", peer_name: "limit", higher_is_better: false, goal: Some(1.0) };
        let runs = (0..context.rounds).map(|_| runtime()?.block_on(reconnect(other)));
        results.push(summarize(&what, runs.collect::<anyhow::Result<_>>()?));
    }
    Ok(results)
}

/// Bytes that beginning again costs, and the limit for them.
async fn reconnect(other: bool) -> anyhow::Result<(f64, f64)> {
    let (here, there) = (Cluster::new(1)?, Cluster::new(2)?);
    let records = there.records(OBJECTS);
    let exporter = export(&there, &records);
    let [at_here, at_there] = [free_address()?, free_address()?];
    let stats = Arc::<Stats>::default();
    let own = End {
        cluster: &here,
        exporter: &ExporterHandle::new(here.id),
        at: at_here,
        with: &there,
        peer: at_there,
    };
    let (_own, mut received) = own.open(&stats)?;
    let end = |exporter| End { cluster: &there, exporter, at: at_there, with: &here, peer: at_here };

    let first = end(&exporter).open(&Arc::default())?;
    arrive(&mut received, records.len()).await.context("the first session")?;
    drop(first);
    let ended = Instant::now();
    let changes: Vec<_> = (0..OBJECTS / 1000).map(|n| there.endpoint(n * 900, 1)).collect();
    let size = |record: &Record| anyhow::Ok(encode_change(&Change::from(record.clone()))?.len());
    let bytes: usize = changes.iter().map(size).sum::<anyhow::Result<_>>()?;
    exporter.apply(changes.iter().cloned().map(Change::from));
    let replica =
        exporter.read(Audience::Peers, |log| log.records().map(|r| (**r).clone()).collect::<Vec<_>>());
    let replacement = other.then(|| export(&there, &replica));
    let exporter = replacement.as_ref().unwrap_or(&exporter);

    let before = stats.snapshot();
    // The port is free again once the first one's connections have ended.
    let mut second = end(exporter).open(&Arc::default());
    while second.is_err() && ended.elapsed() < LIMIT {
        sleep(Duration::from_millis(20)).await;
        second = end(exporter).open(&Arc::default());
    }
    let _second = second?;
    arrive(&mut received, changes.len()).await.context("the second session")?;
    // What comes after the changes counts too.
    sleep(Duration::from_millis(200)).await;
    let after = stats.snapshot();
    let total = after.received_bytes + after.sent_bytes - before.received_bytes - before.sent_bytes;
    #[expect(clippy::cast_precision_loss, reason = "a few MB")]
    Ok((total as f64, bytes as f64 * 2.0 + ALLOWANCE))
}

/// A replica that has these records, and a history of its own.
fn export(cluster: &Cluster, records: &[Record]) -> ExporterHandle {
    let exporter = ExporterHandle::new(cluster.id);
    exporter.apply(records.iter().cloned().map(Change::from));
    exporter.set_scope(Scope::AllBut([].into()));
    exporter
}

fn free_address() -> std::io::Result<SocketAddr> {
    UdpSocket::bind(ANY)?.local_addr()
}

/// One end of the sessions between two clusters.
struct End<'a> {
    cluster: &'a Cluster,
    exporter: &'a ExporterHandle,
    at: SocketAddr,
    with: &'a Cluster,
    peer: SocketAddr,
}

impl End<'_> {
    /// Keeps a session until the tasks are dropped; what it hears comes out of the channel.
    fn open(self, stats: &Arc<Stats>) -> anyhow::Result<(JoinSet<()>, Events)> {
        let trust = TrustStore::new();
        trust.set_pem(&self.with.name, self.with.authority.bundle_pem())?;
        let (listener, dialer) = self.cluster.listen(self.at, &trust, stats)?;
        let (events, received) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        let (local, with) = (self.cluster.local(), self.with.containment());
        let exporter = self.exporter.clone();
        Session { local, exporter, with, at: self.peer, stats: stats.clone() }
            .start(listener, dialer, events, &mut tasks);
        Ok((tasks, received))
    }
}

/// Waits until so many changes have arrived; more is an error.
async fn arrive(events: &mut Events, expected: usize) -> anyhow::Result<()> {
    let mut changes = 0;
    let all = async {
        while changes < expected {
            let (_, event) = events.recv().await.context("the session's owner is gone")?;
            if let PeerEvent::Delta(delta) = event {
                changes += delta.changes.len();
            }
        }
        anyhow::Ok(())
    };
    let in_time = timeout(LIMIT, all).await;
    ensure!(in_time.is_ok() && changes == expected, "{changes} of {expected} changes arrived");
    Ok(())
}
