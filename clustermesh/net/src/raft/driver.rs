//! The loop around the member.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval},
};
use tombolo_mesh_core::membership::{
    self, Applied, Command, Member, MeshState, Output, ProposalId, ReceiveError, Step,
};
use tombolo_model::ClusterId;
use tracing::debug;

use super::{MeshView, MessageSink, ProposeError, Request, SharedMisdeeds, Stopped};
use crate::storage::MemberStorage;

/// An undecided proposal is made again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

type Reply = oneshot::Sender<Result<Applied, ProposeError>>;

pub(super) struct Driver {
    member: Member,
    storage: MemberStorage,
    sink: Box<dyn MessageSink>,
    publish: watch::Sender<Arc<MeshView>>,
    misdeeds: SharedMisdeeds,
    /// Proposed, not yet decided.
    open: BTreeMap<ProposalId, (Box<Command>, Waiting)>,
    /// Not yet proposed for want of a leader.
    held: Vec<(Box<Command>, Waiting)>,
}

struct Waiting {
    since: Instant,
    /// When it was proposed last.
    asked: Instant,
    until: Instant,
    reply: Reply,
}

/// What the member knows now.
pub(super) fn view(member: &Member) -> MeshView {
    MeshView { state: Arc::new(member.state().clone()), status: member.status() }
}

impl Driver {
    pub(super) fn new(
        member: Member,
        storage: MemberStorage,
        sink: Box<dyn MessageSink>,
        publish: watch::Sender<Arc<MeshView>>,
        misdeeds: SharedMisdeeds,
    ) -> Self {
        Self { member, storage, sink, publish, misdeeds, open: BTreeMap::new(), held: Vec::new() }
    }

    /// Runs until it has to stop, and says why.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, tick: Duration) -> Stopped {
        let mut ticks = interval(tick);
        // After a pause the others are heard first; making up for lost ticks would call an election.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.tick(),
                request = requests.recv() => match request {
                    Some(request) => self.take(request),
                    None => return Stopped::Closed,
                },
            }
            if let Err(reason) = self.drive().await {
                return reason;
            }
            self.note_refused();
            self.publish();
            if let Some(halt) = self.member.halted() {
                return halt.into();
            }
        }
    }

    fn tick(&mut self) {
        self.member.tick(unix_now());
        let now = Instant::now();
        self.ask_again(now);
        for (command, waiting) in std::mem::take(&mut self.held) {
            self.propose(command, waiting);
        }
        for (_, waiting) in self.held.extract_if(.., |(_, w)| w.until <= now) {
            let _ = waiting.reply.send(Err(ProposeError::NoQuorum));
        }
        for (_, (_, waiting)) in self.open.extract_if(.., |_, (_, w)| w.until <= now) {
            let _ = waiting.reply.send(Err(ProposeError::Timeout(waiting.until - waiting.since)));
        }
    }

    /// A message to the leader may be lost, and a member that is sent a snapshot does not see the decisions in it.
    fn ask_again(&mut self, now: Instant) {
        let due = |command: &Command, w: &Waiting| is_repeatable(command) && now - w.asked >= ASK_AGAIN;
        let again: Vec<_> = self.open.extract_if(.., |_, (command, w)| due(command, w)).collect();
        for (_, (command, waiting)) in again {
            self.propose(command, Waiting { asked: now, ..waiting });
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Receive { from, bytes, reply } => {
                let result = self.member.receive(from, &bytes);
                if let Err(error) = &result
                    && error.is_misdeed()
                {
                    self.note(from, error);
                }
                match (reply, result) {
                    (Some(reply), result) => drop(reply.send(result)),
                    (None, Err(error)) => debug!(%error, cluster = %from, "membership message not taken"),
                    (None, Ok(())) => {}
                }
            }
            Request::Propose { command, until, reply } => {
                self.propose(command, Waiting { since: Instant::now(), asked: Instant::now(), until, reply });
            }
            Request::Transfer { to, reply } => {
                let result = self.member.transfer(to).map_err(|_| ProposeError::NoQuorum);
                let _ = reply.send(result);
            }
        }
    }

    /// What the member found wrong when it looked at messages more closely.
    fn note_refused(&mut self) {
        for (from, reason) in self.member.take_refused() {
            if let Some(cluster) = from.cluster() {
                self.note(cluster, &ReceiveError::Refused { from, reason });
            }
        }
    }

    fn note(&self, of: ClusterId, what: &ReceiveError) {
        let mut misdeeds = self.misdeeds.lock().unwrap_or_else(PoisonError::into_inner);
        misdeeds.entry(of).or_default().note(what);
    }

    fn propose(&mut self, command: Box<Command>, waiting: Waiting) {
        match self.member.propose((*command).clone()) {
            Ok(id) => drop(self.open.insert(id, (command, waiting))),
            Err(membership::ProposeError::Halted) => drop(waiting.reply.send(Err(ProposeError::Stopped))),
            Err(membership::ProposeError::Refused(refusal)) => drop(waiting.reply.send(Err(refusal.into()))),
            Err(membership::ProposeError::NoLeader | membership::ProposeError::Busy) => {
                self.held.push((command, waiting));
            }
        }
    }

    /// Does all that the member wants done.
    async fn drive(&mut self) -> Result<(), Stopped> {
        while let Some(step) = self.member.poll() {
            let output = match step {
                Step::Write(write) => {
                    let storage = &mut self.storage;
                    let proof = write.save_async(async |changes| storage.save(changes).await).await?;
                    self.member.persisted(proof)
                }
                Step::Output(output) => output,
            };
            self.put_out(output);
        }
        Ok(())
    }

    fn put_out(&mut self, output: Output) {
        for message in output.messages {
            self.sink.send(message);
        }
        if !output.applied.is_empty() {
            // Who asked finds the change in the view once it is answered.
            self.publish();
        }
        for applied in output.applied {
            if let Some((_, waiting)) = self.open.remove(&applied.proposal.id) {
                let _ = waiting.reply.send(Ok(applied));
            }
        }
    }

    /// Tells those who watch, if anything changed.
    fn publish(&self) {
        let (status, state) = (self.member.status(), self.member.state());
        self.publish.send_if_modified(|known| {
            // Every change counts up the version: comparing hundreds of clusters after each message would cost more.
            let number = |state: &MeshState| (state.mesh, state.lineage, state.version);
            let same_state = number(&known.state) == number(state);
            if same_state && known.status == status {
                return false;
            }
            let state = if same_state { Arc::clone(&known.state) } else { Arc::new(state.clone()) };
            *known = Arc::new(MeshView { state, status: status.clone() });
            true
        });
    }
}

/// Whether the command may be decided twice with the outcome of once.
fn is_repeatable(command: &Command) -> bool {
    match command {
        Command::AddCluster { .. }
        | Command::UpdateCluster(_)
        | Command::CreateToken(_)
        | Command::RevokeToken(_) => true,
        Command::RemoveCluster(_) | Command::RenewMember(_) | Command::Unknown => false,
    }
}

/// Seconds since 1970 (UTC); 0 for a clock before that.
fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
