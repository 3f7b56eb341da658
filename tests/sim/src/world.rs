//! Virtual time, the events in it, and who they happen to.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tombolo_mesh_core::membership::{
    ClusterRecord, Command, Durable, Envelope, Member, MemberId, Output, ProposalId, Role, TokenId,
};
use tombolo_model::ClusterId;

use crate::{
    Mutant, Scenario, Trouble,
    checks::{Checks, disagreement},
    network::Network,
    node::{MESH, Node, Progress},
    workload,
};

const TICK_MS: u64 = 100;
const CHAOS_MS: u64 = 40_000;
/// How long a healed mesh may take to agree.
const HEAL_MS: u64 = 120_000;
/// How often a process dies just after it has told of a new term: that is where forgetting a vote shows.
const CRASH_AFTER_VOTE: f64 = 0.1;
const EPOCH: u64 = 1_700_000_000;
/// Seconds.
const YEAR: i64 = 365 * 86_400;

/// What a run has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Events: ticks, messages, writes, faults, wishes.
    pub events: u64,
    /// Entries of the log that were applied, counted once per member.
    pub applied: u64,
    /// Most clusters in the mesh at once.
    pub clusters: usize,
    /// Disks lost.
    pub losses: u64,
    /// Virtual time, ms.
    pub virtual_ms: u64,
}

/// Something that must never be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub(crate) String);

enum Event {
    Tick(ClusterId, u64),
    Deliver { from: ClusterId, envelope: Envelope },
    Written(ClusterId, u64),
    Flush(ClusterId, u64),
    Start(ClusterId),
    Fault,
    Work,
    Pursue,
}

pub(crate) struct World {
    pub(crate) random: StdRng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    pub(crate) nodes: BTreeMap<ClusterId, Node>,
    network: Network,
    pub(crate) checks: Checks,
    pub(crate) scenario: Scenario,
    /// Clusters there can be.
    pub(crate) size: u16,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) removing: Option<ClusterId>,
    pub(crate) removed: BTreeSet<ClusterId>,
    /// Members that have begun with an empty disk: each does so once.
    started: BTreeSet<MemberId>,
    chaos: bool,
    /// How often a process dies between a write and what follows it.
    crash_at_write: f64,
    election_ticks: usize,
    report: Report,
}

/// Runs a scenario: trouble first, then peace, in which everybody has to agree.
pub fn run(scenario: &Scenario) -> Result<Report, Violation> {
    let mut world = World::new(scenario)?;
    let end = CHAOS_MS * u64::from(scenario.length) / 100;
    while world.now < end {
        world.step()?;
    }
    world.heal()?;
    let mut next_look = world.now;
    loop {
        world.step()?;
        if world.now < next_look {
            continue;
        }
        next_look = world.now + 500;
        let Some(reason) = world.unfinished() else { return Ok(world.report) };
        if world.now > end + HEAL_MS {
            return Err(Violation(format!("no agreement on a healed network: {reason}")));
        }
    }
}

impl World {
    fn new(scenario: &Scenario) -> Result<Self, Violation> {
        let mut random = StdRng::seed_from_u64(scenario.seed);
        let mut network = Network::new(&mut random);
        if !scenario.has(Trouble::Network) {
            network.heal();
        }
        let mutant = scenario.mutant;
        let size = random.random_range(3..=11).min(scenario.clusters);
        let election_ticks = *[3, 5, 10].choose(&mut random).unwrap_or(&10);
        let crash_at_write = *[0.0, 0.003, 0.1].choose(&mut random).unwrap_or(&0.0);
        let crash_at_write = if scenario.has(Trouble::CrashAtWrite) { crash_at_write } else { 0.0 };
        let mut world = Self {
            random,
            now: 0,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            nodes: BTreeMap::new(),
            network,
            checks: Checks::default(),
            scenario: scenario.clone(),
            size,
            tokens: Vec::new(),
            removing: None,
            removed: BTreeSet::new(),
            started: BTreeSet::new(),
            chaos: true,
            crash_at_write,
            election_ticks,
            report: Report::default(),
        };
        let first = ClusterId::try_from(1).map_err(|e| Violation(e.to_string()))?;
        let disk = Durable::found(MESH, &workload::cluster(first, 1, 1)?);
        world.nodes.extend(Node::new(disk, mutant).map(|node| (first, node)));
        world.start(first)?;
        for event in [Event::Fault, Event::Work, Event::Pursue] {
            world.schedule(1000, event);
        }
        Ok(world)
    }

    pub(crate) fn seconds(&self) -> u64 {
        EPOCH + self.now / 1000
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = ClusterId> {
        self.nodes.values().filter(|n| n.member.is_some()).map(|n| n.cluster)
    }

    pub(crate) fn member(&self, cluster: ClusterId) -> Option<&Member> {
        self.nodes.get(&cluster)?.member.as_ref()
    }

    /// The leader of the newest term.
    pub(crate) fn leader(&self) -> Option<&Member> {
        let members = self.nodes.values().filter_map(|n| n.member.as_ref());
        members.filter(|m| m.status().role == Role::Leader).max_by_key(|m| m.status().term)
    }

    /// Whether one more member may go without the rest losing their quorum.
    pub(crate) fn is_calm(&self) -> bool {
        let members = self.nodes.values().filter_map(|n| n.member.as_ref());
        self.removing.is_none()
            && !self.nodes.values().any(|n| n.lost)
            && self.leader().is_some_and(|m| m.status().conf.voters.len() >= 3)
            && disagreement(&members).is_none()
    }

    pub(crate) fn propose(&mut self, via: ClusterId, command: Command) -> Option<ProposalId> {
        self.nodes.get_mut(&via)?.member.as_mut()?.propose(command).ok()
    }

    pub(crate) fn renew(&mut self, cluster: ClusterId, id: MemberId) -> Result<(), Violation> {
        if let Some(node) = self.nodes.get_mut(&cluster) {
            node.renew(id);
        }
        self.start(cluster)
    }

    fn schedule(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + delay, self.sequence)));
        self.events.insert(self.sequence, event);
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Some(Reverse((at, sequence))) = self.queue.pop() else {
            return Err(Violation("nothing happens any more".to_owned()));
        };
        self.now = at;
        self.report.events += 1;
        self.report.virtual_ms = at;
        match self.events.remove(&sequence) {
            Some(Event::Tick(cluster, run)) => self.tick(cluster, run),
            Some(Event::Deliver { from, envelope }) => self.deliver(from, &envelope),
            Some(Event::Written(cluster, run)) => self.written(cluster, run),
            Some(Event::Flush(cluster, run)) => {
                if let Some(node) = self.nodes.get_mut(&cluster).filter(|n| n.run == run) {
                    node.flush();
                }
                Ok(())
            }
            Some(Event::Start(cluster)) => self.start(cluster),
            Some(Event::Fault) if self.chaos => self.fault(),
            Some(Event::Work) if self.chaos => {
                let delay = self.random.random_range(20..400);
                self.schedule(delay, Event::Work);
                self.work()
            }
            Some(Event::Pursue) => {
                self.schedule(500, Event::Pursue);
                self.pursue()
            }
            Some(Event::Fault | Event::Work) | None => Ok(()),
        }
    }

    fn start(&mut self, cluster: ClusterId) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&cluster).filter(|n| n.member.is_none() && !n.lost) else {
            return Ok(());
        };
        node.start(&mut self.random, self.election_ticks)?;
        let run = node.run;
        self.schedule(TICK_MS, Event::Tick(cluster, run));
        self.drive(cluster)
    }

    fn tick(&mut self, cluster: ClusterId, run: u64) -> Result<(), Violation> {
        let now = self.seconds();
        let Some(node) = self.nodes.get_mut(&cluster).filter(|n| n.run == run) else { return Ok(()) };
        let skew = node.skew;
        let Some(member) = node.member.as_mut() else { return Ok(()) };
        member.tick(now.saturating_add_signed(skew));
        let jitter = self.random.random_range(0..=TICK_MS / 10);
        self.schedule(TICK_MS + jitter, Event::Tick(cluster, run));
        self.drive(cluster)
    }

    fn deliver(&mut self, from: ClusterId, envelope: &Envelope) -> Result<(), Violation> {
        let Some(to) = envelope.to.cluster() else { return Ok(()) };
        let Some(member) = self.nodes.get_mut(&to).and_then(|n| n.member.as_mut()) else { return Ok(()) };
        // What is refused here is old, or from a member that is out: the network's doing.
        let _ = member.receive(from, &envelope.bytes);
        self.drive(to)
    }

    fn written(&mut self, cluster: ClusterId, run: u64) -> Result<(), Violation> {
        let crash = self.chaos && self.random.random_bool(self.crash_at_write);
        let Some(node) = self.nodes.get_mut(&cluster).filter(|n| n.run == run) else { return Ok(()) };
        let term = node.disk.hard.term;
        let Some(proof) = node.store() else { return Ok(()) };
        let voted = node.disk.hard.term != term;
        if crash {
            self.crash(cluster);
            return Ok(());
        }
        if let Progress::Done(output) = node.confirm(Ok(proof)) {
            self.dispatch(cluster, output)?;
        }
        let dies = self.chaos && self.scenario.has(Trouble::CrashAtWrite);
        if voted && dies && self.random.random_bool(CRASH_AFTER_VOTE) {
            self.crash(cluster);
            return Ok(());
        }
        self.drive(cluster)
    }

    /// Lets a member do all it can do now.
    pub(crate) fn drive(&mut self, cluster: ClusterId) -> Result<(), Violation> {
        while let Some(node) = self.nodes.get_mut(&cluster) {
            let (progress, run, behind) = (node.poll(), node.run, node.is_behind());
            if behind {
                let delay = self.random.random_range(1..300);
                self.schedule(delay, Event::Flush(cluster, run));
            }
            match progress {
                Progress::Idle => break,
                Progress::Writing => {
                    let slow = if self.random.random_bool(0.01) { 1000 } else { 20 };
                    let delay = self.random.random_range(0..slow);
                    self.schedule(delay, Event::Written(cluster, run));
                    break;
                }
                Progress::Done(output) => self.dispatch(cluster, output)?,
            }
        }
        match self.nodes.get(&cluster).and_then(|n| n.member.as_ref()) {
            Some(member) => self.checks.member(member),
            None => Ok(()),
        }
    }

    fn dispatch(&mut self, from: ClusterId, output: Output) -> Result<(), Violation> {
        for applied in &output.applied {
            self.checks.applied(applied)?;
            self.report.applied += 1;
            if let (Command::AddCluster { record, .. }, Ok(())) =
                (&applied.proposal.command, &applied.outcome)
            {
                self.admit(from, record.id)?;
            }
        }
        for envelope in output.messages {
            let Some(to) = envelope.to.cluster() else { continue };
            for delay in self.network.deliveries(&mut self.random, from, to) {
                self.schedule(delay, Event::Deliver { from, envelope: envelope.clone() });
            }
        }
        Ok(())
    }

    /// The new cluster starts its member.
    fn admit(&mut self, via: ClusterId, cluster: ClusterId) -> Result<(), Violation> {
        let Some(state) = self.member(via).map(Member::state) else { return Ok(()) };
        let (count, id) = (state.clusters.len(), state.clusters.get(&cluster).map(ClusterRecord::member));
        self.report.clusters = self.report.clusters.max(count);
        // A member that replays its log lets in again who has long been out.
        let Some(id) = id.filter(|id| !self.nodes.contains_key(&cluster) && self.started.insert(*id)) else {
            return Ok(());
        };
        self.nodes.extend(Node::new(Durable::empty(id), self.scenario.mutant).map(|node| (cluster, node)));
        self.start(cluster)
    }

    fn fault(&mut self) -> Result<(), Violation> {
        let delay = self.random.random_range(200..2500);
        self.schedule(delay, Event::Fault);
        let all: Vec<ClusterId> = self.nodes.keys().copied().collect();
        let Some(&victim) = all.choose(&mut self.random) else { return Ok(()) };
        match self.random.random_range(0..100) {
            0..35 if self.scenario.has(Trouble::Partitions) => self.network.partition(&mut self.random, &all),
            35..60 => self.network.reconnect(),
            60..70 if self.scenario.has(Trouble::Crashes) => self.crash(victim),
            70..80 if self.scenario.has(Trouble::Crashes) => {
                // Leaders die more often than others: elections are where mistakes show.
                let leader = self.leader().and_then(|m| m.id().cluster());
                self.crash(leader.unwrap_or(victim));
            }
            80..85 if self.scenario.has(Trouble::Clocks) => self.jump(victim),
            80..100 if self.scenario.has(Trouble::Losses) && self.is_calm() => self.lose_disk(victim)?,
            _ => {}
        }
        Ok(())
    }

    /// The clock of a cluster is set to another time, or to the right one.
    fn jump(&mut self, cluster: ClusterId) {
        let years = self.random.random_range(-10..=10);
        if let Some(node) = self.nodes.get_mut(&cluster) {
            node.skew = if node.skew == 0 { years * YEAR } else { 0 };
        }
    }

    fn crash(&mut self, cluster: ClusterId) {
        if let Some(node) = self.nodes.get_mut(&cluster) {
            node.crash();
        }
        let longest = if self.random.random_bool(0.5) { 30 } else { 5000 };
        let delay = self.random.random_range(1..=longest);
        self.schedule(delay, Event::Start(cluster));
    }

    fn lose_disk(&mut self, cluster: ClusterId) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&cluster) else { return Ok(()) };
        node.lose_disk();
        self.report.losses += 1;
        if self.scenario.mutant == Some(Mutant::OldIdAfterLoss) {
            let old = node.disk.member;
            return self.renew(cluster, old);
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), Violation> {
        self.chaos = false;
        self.network.heal();
        self.nodes.values_mut().for_each(|node| node.skew = 0);
        let all: Vec<ClusterId> = self.nodes.keys().copied().collect();
        all.into_iter().try_for_each(|cluster| self.start(cluster))
    }

    fn unfinished(&self) -> Option<String> {
        if self.removing.is_some() {
            return Some("a removal is under way".to_owned());
        }
        disagreement(&self.nodes.values().filter_map(|n| n.member.as_ref()))
    }
}
