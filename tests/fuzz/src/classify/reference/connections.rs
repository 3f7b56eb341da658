//! The connections that were let through, as a list.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{Address, protocol};

use super::read::{End, Ends, Parsed};

const SECOND: u64 = 1_000_000_000;
/// A connection is remembered for this long after each of its packets, and once it has begun to close, for
/// [`SURE_WHEN_CLOSING`].
const SURE: u64 = 60 * SECOND;
const SURE_WHEN_CLOSING: u64 = 10 * SECOND;
/// What has not been answered is forgotten after this.
const UNANSWERED: u64 = 60 * SECOND;
/// Nothing is remembered for longer without a packet, TCP and all others.
const LONGEST_TCP: u64 = 8 * 3600 * SECOND;
const LONGEST: u64 = 180 * SECOND;

/// A connection.
#[derive(Clone, Copy, Debug)]
struct Connection {
    opener: End,
    meant: Option<Meant>,
    hairpin: bool,
    /// When a packet was let through last, and when there was any.
    passed: u64,
    touched: u64,
    closing: bool,
    answered: bool,
    /// The pods of the node at its ends, as far as they were known when it was opened.
    pods: Pods,
}

/// What the client of a translated connection believes: whom it has reached, and from which port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meant {
    pub frontend: End,
    pub port: u16,
}

/// Numbers of the pods of the node that send a packet and get it; 0 for others, and where nobody looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pods {
    pub sender: u32,
    pub receiver: u32,
}

impl Pods {
    /// Whether an end has another pod than in a packet of the other kind.
    const fn differ(self, other: Self) -> bool {
        const fn differ(a: u32, b: u32) -> bool {
            a != 0 && b != 0 && a != b
        }
        differ(self.sender, other.sender) || differ(self.receiver, other.receiver)
    }

    /// No pod, or nobody looks.
    pub const NONE: Self = Self { sender: 0, receiver: 0 };

    /// Whoever was not known is this one.
    const fn fill(&mut self, other: Self) {
        if self.sender == 0 {
            self.sender = other.sender;
        }
        if self.receiver == 0 {
            self.receiver = other.receiver;
        }
    }

    /// Those of an answer.
    pub const fn turned(self) -> Self {
        Self { sender: self.receiver, receiver: self.sender }
    }
}

/// What a packet is to the connections before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    New,
    Original,
    /// It answers a connection that was opened like this.
    Reply {
        meant: Option<Meant>,
        hairpin: bool,
    },
    /// It would be of a connection with these ends, but that one was opened to another frontend, or from another port.
    Conflict,
    /// The connection may or may not be remembered any more, or somebody has put it into the map from outside.
    Unsure,
}

/// All connections by their ends, the smaller first.
#[derive(Default)]
pub struct Connections {
    known: BTreeMap<(End, End, u8), Connection>,
    doubtful: BTreeSet<(End, End, u8)>,
}

fn key(ends: &Ends) -> (End, End, u8) {
    (ends.from.min(ends.to), ends.from.max(ends.to), ends.protocol)
}

impl Connections {
    /// What a packet between these ends and pods is at `now`.
    pub fn seen(&self, ends: &Ends, meant: Option<Meant>, packet: &Parsed, now: u64, pods: Pods) -> Seen {
        if self.doubtful.contains(&key(ends)) {
            return Seen::Unsure;
        }
        let Some(known) = self.known.get(&key(ends)) else { return Seen::New };
        let longest = match (known.answered, ends.protocol) {
            (false, _) => UNANSWERED,
            (true, protocol::TCP) => LONGEST_TCP,
            (true, _) => LONGEST,
        };
        let sure = if known.closing { SURE_WHEN_CLOSING } else { SURE };
        if now.saturating_sub(known.touched) >= longest {
            return Seen::New;
        }
        let forward = known.opener == ends.from;
        if known.pods.differ(if forward { pods } else { pods.turned() }) {
            // That pod is gone, and nobody inherits anything.
            return Seen::New;
        }
        if now.saturating_sub(known.passed) >= sure || (packet.opens() && known.closing) {
            return Seen::Unsure;
        }
        match (forward, meant) {
            // Who sends to a frontend answers nobody.
            (false, None) => Seen::Reply { meant: known.meant, hairpin: known.hairpin },
            (true, meant) if known.meant == meant => Seen::Original,
            _ => Seen::Conflict,
        }
    }

    /// Whether a client with this address has a connection to `to` with another port than its own.
    pub fn are_changed(&self, client: &Address, to: &End) -> bool {
        let between = |(a, b, _): &(End, End, u8)| (a.0 == *client && b == to) || (b.0 == *client && a == to);
        let changed = |known: &Connection| known.meant.is_some_and(|meant| meant.port != known.opener.1);
        self.known.iter().any(|(key, known)| between(key) && changed(known))
    }

    /// From here on nothing is said about connections between this address and this end.
    pub fn doubt_between(&mut self, client: &Address, to: &End) {
        let between =
            |(a, b, _): &&(End, End, u8)| (a.0 == *client && b == to) || (b.0 == *client && a == to);
        self.doubtful.extend(self.known.keys().filter(between));
    }

    /// Notes a packet that was let through, or was not; errors are not noted.
    pub fn note(&mut self, ends: &Ends, packet: &Parsed, (seen, pods): (Seen, Pods), passed: bool, now: u64) {
        if packet.is_error() {
            return;
        }
        if seen == Seen::Unsure {
            self.doubt(ends);
        }
        let reply = matches!(seen, Seen::Reply { .. });
        if let (true, Some(known)) = (reply || seen == Seen::Original, self.known.get_mut(&key(ends))) {
            known.touched = known.touched.max(now);
            known.closing |= packet.closes();
            known.answered |= reply;
            if passed {
                known.passed = known.passed.max(now);
                known.pods.fill(if reply { pods.turned() } else { pods });
            }
        }
    }

    /// A connection begins.
    pub fn open(
        &mut self,
        ends: &Ends,
        meant: Option<Meant>,
        hairpin: bool,
        packet: &Parsed,
        (now, pods): (u64, Pods),
    ) {
        if packet.is_error() {
            return;
        }
        let (opener, closing) = (ends.from, packet.closes());
        let (passed, touched, answered) = (now, now, false);
        let new = Connection { opener, meant, hairpin, passed, touched, closing, answered, pods };
        self.known.insert(key(ends), new);
    }

    /// From here on nothing is said about a connection.
    pub fn doubt(&mut self, ends: &Ends) {
        self.doubtful.insert(key(ends));
    }
}
