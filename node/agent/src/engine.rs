//! The loop that brings the node to what the state wants: one thread, all tables, in their order.
//!
//! A change costs the keys it touches. From time to time every target is listed and compared as a whole; routes and
//! tunnel peers also when somebody says that devices or the tunnel process have changed.

mod epoch;
mod lane;

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

pub use epoch::AdvanceEpoch;
use epoch::Epoch;
pub use lane::{Lane, TableLane};
use tokio::sync::oneshot;
use tombolo_node_core::{policy::SelectorBits, state::TableId};

use crate::intent::Intent;

/// How often targets are compared as a whole.
const FULL_PASS: Duration = Duration::from_secs(60);

/// What the loop can be told.
enum Command {
    /// The state has changed.
    Changed,
    /// Devices, routes or the tunnel have changed: compare what is in the kernel's and the tunnel's tables.
    Observe,
    /// Write everything that is due, then answer with what could not be written into BPF maps.
    Flush(oneshot::Sender<Vec<String>>),
}

/// A running loop.
#[derive(Clone)]
pub struct Engine {
    commands: mpsc::Sender<Command>,
    failures: Arc<Mutex<Vec<TableFailures>>>,
    _forwarder: Arc<Forwarder>,
}

/// The task that tells the loop of changes; it ends with the last handle, and so lets the loop end.
struct Forwarder(tokio::task::AbortHandle);

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes of a table that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFailures {
    /// The table.
    pub table: TableId,
    /// What failed, key by key, or as a whole.
    pub messages: Vec<String>,
}

/// Keeps the assignment of selector bits, before anything that relies on it is written.
pub type KeepBits = Box<dyn Fn(&SelectorBits) -> std::io::Result<()> + Send>;

/// The loop has ended.
#[derive(Debug, thiserror::Error)]
#[error("the reconciler has stopped: restart the agent")]
pub struct Stopped;

impl Engine {
    /// Starts the loop over `lanes`; it ends with the last handle.
    pub fn start(
        intent: Arc<Intent>,
        lanes: Vec<Box<dyn Lane>>,
        keep_bits: KeepBits,
        advance_epoch: AdvanceEpoch,
    ) -> std::io::Result<Self> {
        let (commands, received) = mpsc::channel();
        let failures = Arc::default();
        let changes = commands.clone();
        let mut changed = intent.changes();
        let mut run = Loop {
            intent,
            lanes,
            keep_bits,
            kept: None,
            epoch: Epoch::new(advance_epoch),
            started: Instant::now(),
            failures: Arc::clone(&failures),
        };
        thread::Builder::new().name("reconciler".into()).spawn(move || run.run(&received))?;
        let forward = tokio::spawn(async move {
            while changed.changed().await.is_ok() && changes.send(Command::Changed).is_ok() {}
        });
        Ok(Self { commands, failures, _forwarder: Arc::new(Forwarder(forward.abort_handle())) })
    }

    /// Devices, routes or the tunnel have changed, not by the loop.
    pub fn observe(&self) {
        // A loop that has stopped is reported by `flush`.
        let _ = self.commands.send(Command::Observe);
    }

    /// Writes all that is due; what could not be written into BPF maps.
    pub async fn flush(&self) -> Result<Vec<String>, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Flush(answer)).map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }

    /// What fails at the moment.
    pub fn failures(&self) -> Vec<TableFailures> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Loop {
    intent: Arc<Intent>,
    lanes: Vec<Box<dyn Lane>>,
    keep_bits: KeepBits,
    kept: Option<SelectorBits>,
    epoch: Epoch,
    started: Instant,
    failures: Arc<Mutex<Vec<TableFailures>>>,
}

impl Loop {
    fn run(&mut self, commands: &mpsc::Receiver<Command>) {
        self.observe(|_| true);
        let mut observed = Instant::now();
        loop {
            self.pass();
            let command = match commands.recv_timeout(self.wait(observed)) {
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.epoch.advance_last(),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Ok(command) => Some(command),
            };
            let mut flushes = Vec::new();
            let mut outside = false;
            for command in command.into_iter().chain(commands.try_iter()) {
                match command {
                    Command::Changed => {}
                    Command::Observe => outside = true,
                    Command::Flush(answer) => flushes.push(answer),
                }
            }
            if observed.elapsed() >= FULL_PASS {
                self.observe(|_| true);
                observed = Instant::now();
            } else if outside {
                self.observe(is_outside);
            }
            if !flushes.is_empty() {
                self.pass();
                let failed = self.map_failures();
                for answer in flushes {
                    // Nobody waits any more when the caller was cancelled.
                    let _ = answer.send(failed.clone());
                }
            }
        }
    }

    fn wait(&self, observed: Instant) -> Duration {
        let full = FULL_PASS.saturating_sub(observed.elapsed());
        let now = self.started.elapsed();
        let retry = self.lanes.iter().filter_map(|lane| lane.next_retry()).chain(self.epoch.next()).min();
        retry.map_or(full, |at| at.saturating_sub(now).min(full)).max(Duration::from_millis(10))
    }

    fn observe(&mut self, which: impl Fn(TableId) -> bool) {
        for lane in self.lanes.iter_mut().filter(|lane| which(lane.table())) {
            lane.list();
        }
        self.intent.take(|state| {
            state.refresh();
            for lane in &mut self.lanes {
                lane.compare(state);
            }
        });
    }

    /// Writes all that is due: updates in the order of the tables, then deletes in the reverse order.
    fn pass(&mut self) {
        let now = self.started.elapsed();
        let bits = self.intent.take(|state| {
            state.refresh();
            let prune = state.may_prune();
            for lane in &mut self.lanes {
                lane.plan(state, now, prune);
            }
            (self.kept.as_ref() != Some(state.selector_bits())).then(|| state.selector_bits().clone())
        });
        if let Some(bits) = bits {
            if let Err(e) = (self.keep_bits)(&bits) {
                tracing::error!(error = %e, "cannot keep the selector bits; policies wait");
                // For what the pass before has written.
                self.epoch.advance_if_due(self.started.elapsed());
                return;
            }
            self.kept = Some(bits);
        }
        for lane in &mut self.lanes {
            lane.update(now);
        }
        for lane in self.lanes.iter_mut().rev() {
            lane.delete(now);
            if lane.take_written() {
                self.epoch.note_written(lane.table());
            }
        }
        self.epoch.advance_if_due(self.started.elapsed());
        self.intent.take(|state| {
            for lane in &mut self.lanes {
                lane.settle(state);
            }
            let policies = [TableId::Identity, TableId::Policy];
            if self.lanes.iter().filter(|lane| policies.contains(&lane.table())).all(|lane| lane.is_settled())
            {
                state.settle_policies();
            }
        });
        self.report();
    }

    fn report(&self) {
        let now: Vec<TableFailures> = self
            .lanes
            .iter()
            .map(|lane| TableFailures { table: lane.table(), messages: lane.failures() })
            .filter(|failures| !failures.messages.is_empty())
            .collect();
        let mut before = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for failures in now.iter().filter(|failures| !before.contains(failures)) {
            let first = failures.messages.first().map_or("", String::as_str);
            let count = failures.messages.len();
            tracing::warn!(table = ?failures.table, count, first, "a table could not be written, will try again");
        }
        *before = now;
    }

    fn map_failures(&self) -> Vec<String> {
        let maps = self.lanes.iter().filter(|lane| !is_outside(lane.table()));
        maps.flat_map(|lane| lane.failures()).collect()
    }
}

/// Whether others than the agent change the table: the kernel, with its devices, or the tunnel process.
const fn is_outside(table: TableId) -> bool {
    matches!(table, TableId::Peer | TableId::Route)
}
