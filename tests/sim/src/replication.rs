//! Replication of many clusters: the real exporters, senders and receivers, over sessions that break at any moment,
//! daemons that start anew, and clusters with valid credentials that say whatever they like.

mod checks;
mod hostile;
mod link;
mod origin;

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tombolo_mesh_core::replication::{Admission, Change, Delta, Limits, Receiver, Scope};
use tombolo_model::ClusterId;

use self::{
    checks::{View, settled},
    link::{Exporting, Link},
    origin::Origin,
};
use crate::{Mutant, Scenario, Trouble, Violation};

/// Steps of trouble.
const STEPS: u32 = 1500;
/// Rounds in which a healed mesh has to become quiet.
const ROUNDS: u32 = 400;

/// What a run has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Steps, frames made and frames taken.
    pub events: u64,
    /// Changes that became visible somewhere.
    pub changes: u64,
    /// Daemons that started anew.
    pub restarts: u64,
    /// Frames that hostile clusters invented.
    pub forged: u64,
    /// Of those, how many ended a session.
    pub refused: u64,
}

struct World {
    random: StdRng,
    scenario: Scenario,
    /// Every cluster; two at least.
    all: Vec<ClusterId>,
    origins: BTreeMap<ClusterId, Origin>,
    /// What a cluster hears of another one: by the one that hears, and the one that is heard.
    peers: BTreeMap<(ClusterId, ClusterId), Link>,
    /// A node of each cluster.
    nodes: BTreeMap<ClusterId, (Link, View)>,
    report: Report,
}

/// Runs a scenario: trouble first, then peace, in which all have to know the same.
pub fn run(scenario: &Scenario) -> Result<Report, Violation> {
    let mut world = World::new(scenario)?;
    for _ in 0..STEPS * scenario.length / 100 {
        world.step()?;
    }
    world.settle()?;
    Ok(world.report)
}

impl World {
    fn new(scenario: &Scenario) -> Result<Self, Violation> {
        let (mut random, mutant) = (StdRng::seed_from_u64(scenario.seed), scenario.mutant);
        let (size, hostile) = (random.random_range(2..=5u16), random.random_range(0..=2u16));
        let size = size.min(scenario.clusters);
        let hostile = if scenario.has(Trouble::Lies) { hostile } else { 0 };
        let mut world = Self {
            random,
            scenario: scenario.clone(),
            all: Vec::new(),
            origins: BTreeMap::new(),
            peers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            report: Report::default(),
        };
        for number in 1..=size {
            let origin = Origin::new(number, number > 1 && number <= hostile, mutant)?;
            world.origins.insert(origin.id, origin);
        }
        world.all = world.origins.keys().copied().collect();
        for id in world.all.clone() {
            let receiver = Receiver::new(Admission::All, Limits::default());
            world.nodes.insert(id, (Link::new(receiver), View::default()));
            world.listen(id);
        }
        Ok(world)
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.report.events += 1;
        let id = self.any();
        match self.random.random_range(0..100) {
            0..30 => self.with(id, Origin::change),
            30..72 => {
                let from = self.any();
                self.transfer_peer(id, from)
            }
            72..90 => self.transfer_node(id),
            90..93 if self.scenario.has(Trouble::Cuts) => {
                self.cut(id);
                Ok(())
            }
            93..95 if self.scenario.has(Trouble::Restarts) => self.restart(id),
            _ => {
                self.with(id, |origin, random, mutant| origin.read(random.random_range(1..12), mutant))?;
                self.announce(id);
                Ok(())
            }
        }
    }

    fn any(&mut self) -> ClusterId {
        self.all[self.random.random_range(0..self.all.len())]
    }

    fn with(
        &mut self,
        id: ClusterId,
        act: impl FnOnce(&mut Origin, &mut StdRng, Option<Mutant>) -> Result<(), Violation>,
    ) -> Result<(), Violation> {
        match self.origins.get_mut(&id) {
            Some(origin) => act(origin, &mut self.random, self.scenario.mutant),
            None => Ok(()),
        }
    }

    /// One turn of the session by which `here` hears `there`.
    fn transfer_peer(&mut self, here: ClusterId, there: ClusterId) -> Result<(), Violation> {
        let (Some(link), Some(origin)) = (self.peers.get_mut(&(here, there)), self.origins.get(&there))
        else {
            return Ok(());
        };
        let mut exporting = Exporting { log: origin.exporter.peers(), mutant: self.scenario.mutant };
        let forged = origin.hostile_speaks.then(|| hostile::frame(&mut self.random, origin, &self.origins));
        let deltas = link.turn(&mut exporting, forged, &mut self.random, &mut self.report);
        if deltas.is_empty() {
            return Ok(());
        }
        checks::contained(&link.receiver, origin)?;
        self.hear(here, there, deltas)
    }

    /// What was heard goes on to the nodes.
    fn hear(&mut self, here: ClusterId, there: ClusterId, deltas: Vec<Delta>) -> Result<(), Violation> {
        for delta in deltas {
            self.report.changes += delta.changes.len() as u64;
            let Some(origin) = self.origins.get_mut(&here) else { return Ok(()) };
            if delta.complete {
                origin.complete_peers.insert(there);
            }
            let refused = origin.exporter.apply(delta.changes, 1).refused;
            if let Some((key, error)) = refused.first() {
                return Err(Violation(format!("{key:?} was admitted and cannot be sent on: {error}")));
            }
        }
        self.announce(here);
        Ok(())
    }

    fn transfer_node(&mut self, id: ClusterId) -> Result<(), Violation> {
        let (Some((link, view)), Some(origin)) = (self.nodes.get_mut(&id), self.origins.get(&id)) else {
            return Ok(());
        };
        let mut exporting = Exporting { log: origin.exporter.nodes(), mutant: self.scenario.mutant };
        let deltas = link.turn(&mut exporting, None, &mut self.random, &mut self.report);
        for delta in deltas {
            if self.scenario.mutant == Some(Mutant::DeltaLost) && self.random.random_bool(0.02) {
                continue;
            }
            self.report.changes += delta.changes.len() as u64;
            view.apply(&delta, &self.origins)?;
        }
        Ok(())
    }

    /// Sessions of a cluster, and of its node, break.
    fn cut(&mut self, id: ClusterId) {
        let other = self.any();
        if let Some(link) = self.peers.get_mut(&(id, other)) {
            link.cut();
        }
        if let Some((link, _)) = self.nodes.get_mut(&id).filter(|_| self.random.random_bool(0.3)) {
            link.cut();
        }
    }

    /// The daemon of a cluster dies, and another one begins with nothing.
    fn restart(&mut self, id: ClusterId) -> Result<(), Violation> {
        self.report.restarts += 1;
        self.with(id, |origin, _, mutant| {
            origin.restart(mutant);
            Ok(())
        })?;
        for ((here, there), link) in &mut self.peers {
            if *here == id || *there == id {
                link.cut();
            }
        }
        if let Some((link, _)) = self.nodes.get_mut(&id) {
            link.cut();
        }
        self.listen(id);
        self.announce(id);
        Ok(())
    }

    /// Receivers of a new daemon for all others.
    fn listen(&mut self, here: ClusterId) {
        for (there, origin) in self.origins.iter().filter(|(there, _)| **there != here) {
            let receiver = Receiver::new(origin.admission(self.scenario.mutant), Limits::default());
            self.peers.insert((here, *there), Link::new(receiver));
        }
    }

    /// Says of which clusters a daemon knows everything.
    fn announce(&mut self, id: ClusterId) {
        let Some(origin) = self.origins.get_mut(&id) else { return };
        let unheard = |other: &&ClusterId| **other != id && !origin.complete_peers.contains(other);
        let pending = self.all.iter().filter(unheard).copied();
        let scope = match self.scenario.mutant {
            Some(Mutant::PruneEarly) => Scope::AllBut([].into()),
            Some(Mutant::PendingForgotten) if origin.is_read() => Scope::AllBut([].into()),
            _ if origin.is_read() => Scope::AllBut(pending.collect()),
            _ => Scope::Nothing,
        };
        origin.exporter.set_scope(scope);
    }

    /// No more trouble: everything is read and heard, until nothing moves.
    fn settle(&mut self) -> Result<(), Violation> {
        let all = self.all.clone();
        for origin in self.origins.values_mut() {
            origin.hostile_speaks = false;
            origin.read(usize::MAX, self.scenario.mutant)?;
        }
        // What hostile clusters have broken begins anew.
        self.peers.values_mut().for_each(Link::cut);
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let before = self.report.events;
            for &here in &all {
                self.announce(here);
                for &there in &all {
                    self.transfer_peer(here, there)?;
                }
                self.transfer_node(here)?;
            }
            quiet = if self.report.events == before { quiet + 1 } else { 0 };
            if quiet > 2 {
                break;
            }
        }
        if quiet <= 2 {
            return Err(Violation(format!("a healed mesh still says something after {ROUNDS} rounds")));
        }
        for &here in &all {
            let (Some((_, view)), Some(own)) = (self.nodes.get(&here), self.origins.get(&here)) else {
                continue;
            };
            let heard = |there| self.peers.get(&(here, there)).map(|link: &Link| &link.receiver);
            settled(own, view, heard, &self.origins)?;
        }
        Ok(())
    }
}

/// The plain change of a record.
fn upsert(record: tombolo_model::Record) -> Change {
    record.into()
}
