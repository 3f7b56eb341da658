//! The connections that were let through, as a list.

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::protocol;

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
    frontend: Option<End>,
    hairpin: bool,
    /// When a packet was let through last, and when there was any.
    passed: u64,
    touched: u64,
    closing: bool,
    answered: bool,
    /// When the rules were changed last before it was opened.
    rules: u64,
}

/// What a packet is to the connections before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    New,
    Original,
    /// It answers. The frontend is what the opener meant.
    Reply {
        frontend: Option<End>,
        hairpin: bool,
        rules_are_the_same: bool,
    },
    /// It would be of a connection with these ends, but that one was opened to another frontend.
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
    /// What a packet between these ends is at `now`; the rules are those of version `rules`.
    pub fn seen(&self, ends: &Ends, frontend: Option<End>, packet: &Parsed, now: u64, rules: u64) -> Seen {
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
        if now - known.touched >= longest {
            return Seen::New;
        }
        if now - known.passed >= sure || (packet.opens() && known.closing) {
            return Seen::Unsure;
        }
        if known.opener != ends.from {
            let rules_are_the_same = known.rules == rules;
            return Seen::Reply { frontend: known.frontend, hairpin: known.hairpin, rules_are_the_same };
        }
        match (known.frontend == frontend, packet.opens()) {
            (true, _) => Seen::Original,
            (false, true) => Seen::New,
            (false, false) => Seen::Conflict,
        }
    }

    /// Whether there may have been a connection between these ends.
    pub fn knows(&self, ends: &Ends) -> bool {
        self.known.contains_key(&key(ends)) || self.doubtful.contains(&key(ends))
    }

    /// Notes a packet that was let through, or was not; errors are not noted.
    pub fn note(&mut self, ends: &Ends, packet: &Parsed, seen: Seen, passed: bool, now: u64) {
        if packet.is_error() {
            return;
        }
        if seen == Seen::Unsure {
            self.doubt(ends);
        }
        let reply = matches!(seen, Seen::Reply { .. });
        if let (true, Some(known)) = (reply || seen == Seen::Original, self.known.get_mut(&key(ends))) {
            known.touched = now;
            known.closing |= packet.closes();
            known.answered |= reply;
            if passed {
                known.passed = now;
            }
        }
    }

    /// A connection begins.
    pub fn open(
        &mut self,
        ends: &Ends,
        frontend: Option<End>,
        hairpin: bool,
        packet: &Parsed,
        at: (u64, u64),
    ) {
        if packet.is_error() {
            return;
        }
        let (now, rules) = at;
        let (opener, closing) = (ends.from, packet.closes());
        let (passed, touched, answered) = (now, now, false);
        let new = Connection { opener, frontend, hairpin, passed, touched, closing, answered, rules };
        self.known.insert(key(ends), new);
    }

    /// From here on nothing is said about a connection.
    pub fn doubt(&mut self, ends: &Ends) {
        self.doubtful.insert(key(ends));
    }
}
