//! Sender and receiver over connections that break at any moment, with exporters that restart; compared after every
//! step with what the exporter held at each revision.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use tombolo_model::{ClusterId, Record, RecordKey};

use super::{tests::*, *};
use crate::wire::{Frame, decode_frame};

/// Endpoints with these numbers are never removed.
const PERMANENT: u8 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// One transaction: endpoints with a number each get another identity, or go away with it.
    Change(Vec<(u8, u8)>),
    /// A service gets these backends.
    Backends(u8, Vec<u8>),
    /// So many frames are made, and so many arrive.
    Transfer(u8, u8),
    Disconnect,
    /// The exporter starts anew, knows so many of its records and has not heard everything yet.
    Restart(u8),
    /// The restarted exporter has heard everything.
    Complete,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => vec((0u8..40, 0u8..6), 1..6).prop_map(Step::Change),
        2 => (0u8..4, vec(0u8..20, 0..5)).prop_map(|(s, b)| Step::Backends(s, b)),
        12 => (0u8..6, 0u8..6).prop_map(|(made, arrived)| Step::Transfer(made, arrived)),
        1 => Just(Step::Disconnect),
        1 => (0u8..30).prop_map(Step::Restart),
        2 => Just(Step::Complete),
    ]
}

type Records = BTreeMap<RecordKey, std::sync::Arc<Record>>;

struct World {
    log: Log,
    /// What exists, whether the exporter has heard of it or not.
    truth: Records,
    /// What the log held at each of its revisions.
    history: BTreeMap<u64, Records>,
    sender: Sender,
    receiver: Receiver,
    wire: VecDeque<Bytes>,
    /// The way back.
    replies: VecDeque<Frame>,
    seen: BTreeSet<RecordKey>,
    consumer: Records,
    epoch: u64,
    /// The receiver is of a version that can compare.
    compares: bool,
}

impl World {
    fn new(compares: bool) -> Self {
        let mut log = Log::new(0, 8);
        log.set_scope(Scope::AllBut(BTreeSet::new()));
        let mut world = Self {
            log,
            truth: Records::new(),
            history: BTreeMap::from([(0, Records::new())]),
            sender: Sender::default(),
            receiver: Receiver::new(Admission::All, Limits::default()),
            wire: VecDeque::new(),
            replies: VecDeque::new(),
            seen: BTreeSet::new(),
            consumer: Records::new(),
            epoch: 0,
            compares,
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.wire.clear();
        self.replies.clear();
        self.sender = Sender::default();
        let subscription = self.receiver.subscribe();
        self.answer(subscription);
    }

    fn answer(&mut self, reply: Frame) {
        match reply {
            Frame::Subscribe(s) if !self.compares => {
                self.sender.subscribe(&self.log, Subscription { holds_records: false, ..s });
            }
            reply => answer(&mut self.sender, &self.log, reply),
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in &changes {
            match change {
                Change::Upsert(r) => self.truth.insert(r.key(), r.clone()),
                Change::Remove(k) => self.truth.remove(k),
            };
        }
        assert!(self.log.apply(changes, 1).refused.is_empty());
        self.remember();
    }

    fn remember(&mut self) {
        let now = self.log.records().map(|r| (r.key(), r.clone())).collect();
        self.history.insert(self.log.position().revision, now);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Change(list) => {
                let changes = list.into_iter().flat_map(|(n, version)| {
                    if version == 0 && n >= PERMANENT {
                        vec![Change::Remove(endpoint(n, 0).key()), Change::Remove(identity(n, 0).key())]
                    } else {
                        vec![endpoint(n, version).into(), identity(n, version).into()]
                    }
                });
                self.apply(changes.collect());
            }
            Step::Backends(n, hosts) => self.apply(vec![service(n, &hosts).into()]),
            Step::Transfer(made, arrived) => {
                for _ in 0..made {
                    if let Some(reply) = self.replies.pop_front() {
                        self.answer(reply);
                    }
                    self.wire.extend(self.sender.poll(&self.log).map(|out| out.frame));
                }
                for _ in 0..arrived {
                    self.deliver();
                }
            }
            Step::Disconnect => self.connect(),
            Step::Restart(known) => {
                self.epoch += 1;
                self.log = Log::new(self.epoch, 8);
                self.history = BTreeMap::from([(0, Records::new())]);
                // Endpoints come with their identities, however few are known.
                let known: Vec<u8> = (0..known).collect();
                let with = |n: &u8| {
                    let endpoint = self.truth.get(&endpoint(*n, 0).key())?;
                    let Record::Endpoint(e) = &**endpoint else { return None };
                    let identity = self.truth.get(&RecordKey::Identity(e.identity))?;
                    Some([Change::Upsert(endpoint.clone()), Change::Upsert(identity.clone())])
                };
                let changes: Vec<Change> = known.iter().filter_map(with).flatten().collect();
                self.log.apply(changes, 1);
                self.remember();
                self.connect();
            }
            Step::Complete => {
                self.log.apply(self.truth.values().cloned().map(Change::Upsert).collect::<Vec<_>>(), 1);
                self.remember();
                self.log.set_scope(Scope::AllBut(BTreeSet::new()));
            }
        }
    }

    fn deliver(&mut self) {
        let Some(bytes) = self.wire.pop_front() else { return };
        let frame = decode_frame(&bytes).unwrap();
        let watermark = matches!(frame, Frame::Watermark { .. });
        let delta = self.receiver.handle(frame).unwrap().unwrap_or_default();
        for change in delta.changes {
            match change {
                Change::Upsert(r) => {
                    self.seen.insert(r.key());
                    self.consumer.insert(r.key(), r);
                }
                Change::Remove(key) => {
                    self.consumer.remove(&key);
                    if watermark {
                        let revision = self.receiver.position().unwrap().revision;
                        assert!(
                            !self.history[&revision].contains_key(&key),
                            "{key:?} dropped, but it exists"
                        );
                    }
                }
            }
        }
        self.replies.extend(self.receiver.take_reply());
        self.check();
    }

    fn check(&self) {
        assert_eq!(&self.consumer, self.receiver.records());
        for n in 0..PERMANENT {
            let key = endpoint(n, 0).key();
            assert!(!self.seen.contains(&key) || self.consumer.contains_key(&key), "{key:?} dropped early");
        }
        for record in self.consumer.values() {
            if let Record::Endpoint(e) = &**record {
                assert!(
                    self.consumer.contains_key(&RecordKey::Identity(e.identity)),
                    "{e:?} without its identity"
                );
            }
        }
        // Withdrawals may make services run ahead; everything else is exactly as it was at that revision, unless a
        // snapshot is under way or what the exporter has not heard is kept.
        if let Some(position) = self.receiver.position()
            && position.epoch == self.log.position().epoch
            && self.receiver.everything().complete
        {
            let others = |records: &Records| -> Records {
                let others = records.iter().filter(|(k, _)| !matches!(k, RecordKey::Service(..)));
                others.map(|(k, r)| (k.clone(), r.clone())).collect()
            };
            assert_eq!(
                others(&self.consumer),
                others(&self.history[&position.revision]),
                "half a transaction"
            );
        }
    }

    fn settle(&mut self) {
        self.step(Step::Complete);
        loop {
            while let Some(reply) = self.replies.pop_front() {
                self.answer(reply);
            }
            while let Some(out) = self.sender.poll(&self.log) {
                self.wire.push_back(out.frame);
            }
            if self.wire.is_empty() {
                break;
            }
            while !self.wire.is_empty() {
                self.deliver();
            }
        }
        let held: Records = self.log.records().map(|r| (r.key(), r.clone())).collect();
        assert_eq!(self.consumer, held);
        assert_eq!(self.receiver.position(), Some(self.log.position()));
        assert!(self.receiver.everything().complete);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn converges_and_is_never_inconsistent(steps in vec(step(), 1..60), compares in any::<bool>()) {
        let mut world = World::new(compares);
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}

#[test]
fn clusters_not_heard_yet_keep_their_records() {
    let (own, other) = (cluster(1), cluster(2));
    let records = |c: ClusterId| Change::from(node(c, "a"));
    let mut receiver = Receiver::new(Admission::All, Limits::default());
    let mut old = Log::new(1, 8);
    old.apply([records(own), records(other)], 1);
    old.set_scope(Scope::AllBut(BTreeSet::new()));
    sync(&old, &mut receiver);
    // A new exporter has heard neither, then its own cluster, then both.
    let mut new = Log::new(2, 8);
    assert_eq!(sync(&new, &mut receiver), (2, false));
    new.set_scope(Scope::AllBut(BTreeSet::from([other])));
    assert_eq!(sync(&new, &mut receiver), (1, true));
    assert_eq!(receiver.everything().pending, BTreeSet::from([other]));
    new.set_scope(Scope::AllBut(BTreeSet::new()));
    assert_eq!(sync(&new, &mut receiver), (0, true));
}
