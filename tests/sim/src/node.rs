//! One cluster's member with its disk.

use rand::{Rng, rngs::StdRng};
use tombolo_mesh_core::membership::{
    Changes, Config, Durable, Member, MemberId, MeshId, Output, Persisted, Step, Write,
};
use tombolo_model::ClusterId;

use crate::{Mutant, Violation};

pub(crate) const MESH: MeshId = MeshId(0x70_6d62);

/// A member, its disk and what is between them.
pub(crate) struct Node {
    pub(crate) cluster: ClusterId,
    pub(crate) disk: Durable,
    /// None while it is down.
    pub(crate) member: Option<Member>,
    /// Its disk is gone; it waits for its next incarnation.
    pub(crate) lost: bool,
    /// Counts starts, so that events of an earlier run are not taken for this one's.
    pub(crate) run: u64,
    write: Option<Write>,
    /// Changes that the broken driver called stored before they are.
    unwritten: Vec<Changes>,
    mutant: Option<Mutant>,
    /// How far its clock is wrong, seconds.
    pub(crate) skew: i64,
    /// What the disk held when the member last started.
    backup: Durable,
}

/// What came of polling a member once.
pub(crate) enum Progress {
    /// Nothing to do.
    Idle,
    /// A write began; its end is to be scheduled.
    Writing,
    /// Something to send and what was decided.
    Done(Output),
}

impl Node {
    pub(crate) fn new(disk: Durable, mutant: Option<Mutant>) -> Option<Self> {
        let cluster = disk.member.cluster()?;
        Some(Self {
            cluster,
            backup: disk.clone(),
            disk,
            member: None,
            lost: false,
            run: 0,
            write: None,
            unwritten: Vec::new(),
            mutant,
            skew: 0,
        })
    }

    pub(crate) fn start(&mut self, random: &mut StdRng, election_ticks: usize) -> Result<(), Violation> {
        let config = Config {
            mesh: MESH,
            election_ticks,
            heartbeat_ticks: election_ticks / 3,
            seed: random.random(),
            key: random.random(),
        };
        let disk = Durable::decode(&self.disk.encode()).map_err(|e| Violation(format!("disk: {e}")))?;
        let member = Member::restore(&config, &disk).map_err(|e| Violation(format!("restart: {e}")))?;
        self.member = Some(member);
        self.run += 1;
        Ok(())
    }

    /// The process dies; what was not stored is gone.
    pub(crate) fn crash(&mut self) {
        if self.mutant == Some(Mutant::TornLog) && self.member.is_some() {
            let last = self.disk.entries.pop();
            self.disk.hard.commit = self.disk.hard.commit.min(self.disk.last_index());
            drop(last);
        }
        if self.mutant == Some(Mutant::OldBackup) {
            std::mem::swap(&mut self.disk, &mut self.backup);
        }
        self.member = None;
        self.write = None;
        self.unwritten.clear();
    }

    /// The disk is gone too.
    pub(crate) fn lose_disk(&mut self) {
        self.crash();
        self.lost = true;
    }

    /// Begins anew under another id, or, as a mistake, under the old one.
    pub(crate) fn renew(&mut self, id: MemberId) {
        self.disk = Durable::empty(id);
        self.lost = false;
    }

    pub(crate) fn poll(&mut self) -> Progress {
        let Some(step) = self.member.as_mut().and_then(Member::poll) else { return Progress::Idle };
        match step {
            Step::Output(output) => Progress::Done(output),
            Step::Write(write) if self.mutant == Some(Mutant::SendBeforeStore) => {
                let unwritten = &mut self.unwritten;
                let saved = write.save(|changes| {
                    unwritten.push(changes.clone());
                    Ok::<(), ()>(())
                });
                self.confirm(saved)
            }
            Step::Write(write) => {
                self.write = Some(write);
                Progress::Writing
            }
        }
    }

    /// Writes that the disk has been told of and not finished.
    pub(crate) fn is_behind(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// The disk finishes what it was told to write.
    pub(crate) fn flush(&mut self) {
        for changes in self.unwritten.drain(..) {
            self.disk.apply(&changes);
        }
    }

    /// The open write reaches the disk.
    pub(crate) fn store(&mut self) -> Option<Persisted> {
        let (disk, mutant) = (&mut self.disk, self.mutant);
        let saved = self.write.take()?.save(|changes| {
            disk.apply(changes);
            match mutant {
                Some(Mutant::VotesNotStored) => disk.hard.vote = 0,
                Some(Mutant::TermsNotStored) => {
                    disk.hard.term = disk.entries.last().map_or(disk.snapshot.term, |entry| entry.term);
                    disk.hard.vote = 0;
                }
                _ => {}
            }
            Ok::<(), ()>(())
        });
        saved.ok()
    }

    /// The member hears that its write is stored.
    pub(crate) fn confirm(&mut self, proof: Result<Persisted, ()>) -> Progress {
        match (self.member.as_mut(), proof) {
            (Some(member), Ok(proof)) => Progress::Done(member.persisted(proof)),
            _ => Progress::Idle,
        }
    }
}
