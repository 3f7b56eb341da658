//! The sending half of a session.

use std::time::Duration;

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tombolo_mesh_core::{
    replication::{Outgoing, Sender, Start, Subscription, WantedBucket},
    wire::Frame,
};

use super::{Audience, ExporterHandle, SessionError, unix_time_ms};
use crate::transport::{FrameSender, Stats};

/// How long after a change the exporter's revision and time are told, at most.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often they are told while nothing changes: a large mesh should be quiet at rest.
const REST: Duration = Duration::from_secs(10);

/// What the receiving half, or the owner, asks the sending half to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Send this.
    Send(Frame),
    /// The other side subscribes.
    Subscribe(Subscription),
    /// The other side answers the digests.
    Want(Vec<WantedBucket>),
}

/// Has the newest value told, now and after each change. Without a source of values the session goes on.
pub(crate) async fn tell<T: Clone>(
    mut values: watch::Receiver<T>,
    frame: impl Fn(T) -> Frame,
    commands: mpsc::Sender<Command>,
) -> Result<(), SessionError> {
    loop {
        let newest = values.borrow_and_update().clone();
        let told = commands.send(Command::Send(frame(newest))).await;
        told.map_err(|_| SessionError::ConsumerGone)?;
        if values.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Sends the log to its subscriber, and what else is to be said, until the session ends. Returns when nobody can give
/// commands any more.
pub(crate) async fn write(
    tx: &mut FrameSender,
    export: Option<(&ExporterHandle, Audience)>,
    mut commands: mpsc::Receiver<Command>,
    stats: &Stats,
) -> Result<(), SessionError> {
    let Some((exporter, audience)) = export else {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Send(frame) => tx.send(&frame).await?,
                Command::Subscribe(_) | Command::Want(_) => {}
            }
        }
        return Ok(());
    };
    let mut sender = Sender::default();
    let mut changes = exporter.changes(audience);
    let heartbeat = sleep(Duration::ZERO);
    tokio::pin!(heartbeat);
    loop {
        // One frame at a time: in between, commands and heartbeats have their turn.
        let next = exporter.read(audience, |log| sender.poll(log));
        if let Some(Outgoing { frame, changes }) = next.clone() {
            stats.sent_changes.add(changes as u64);
            tx.send_encoded(frame).await?;
            let soon = Instant::now() + HEARTBEAT;
            if heartbeat.deadline() > soon {
                heartbeat.as_mut().reset(soon);
            }
        }
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                None => return Ok(()),
                Some(Command::Send(frame)) => tx.send(&frame).await?,
                Some(Command::Subscribe(subscription)) => {
                    let start = exporter.read(audience, |log| {
                        sender.subscribe(log, subscription);
                        sender.start()
                    });
                    match start {
                        Start::Resumption => stats.resumed.inc(),
                        Start::Comparison => stats.comparisons.inc(),
                        Start::Snapshot => stats.snapshots.inc(),
                    }
                }
                Some(Command::Want(wanted)) => exporter.read(audience, |log| sender.want(log, wanted)),
            },
            () = &mut heartbeat => {
                let frame = exporter.read(audience, |log| Sender::heartbeat(log, unix_time_ms()));
                tx.send_encoded(frame.frame).await?;
                heartbeat.as_mut().reset(Instant::now() + REST);
            }
            () = std::future::ready(()), if next.is_some() => {}
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}
