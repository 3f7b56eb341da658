//! Which selector has which bit.
//!
//! The tables `IDENTITY` (who has a bit) and `POLICY` (who is let in by a bit) are written one after the other, so
//! a bit must not change its meaning while either still has the old one. A selector that leaves its bit therefore
//! keeps narrowing it until [`SelectorBits::settle`] says that both tables are as desired; then the bit is cleared
//! in `IDENTITY`, and only after the next `settle` it may get a new meaning.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tombolo_abi::{ANY_PEER, Bitmap};
use tombolo_model::{Identity, Labels, Selector};

/// The assignment of bits to selectors. The agent keeps it over restarts (serde), because the pinned maps do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u16, Bit)>", into = "Vec<(u16, Bit)>")]
pub struct SelectorBits {
    /// Bits that are not free.
    bits: BTreeMap<u16, Bit>,
    /// The bit of each selector that has one.
    assigned: BTreeMap<Selector, u16>,
    /// Bits whose users no longer match the same identities.
    narrowed: BTreeSet<u16>,
    /// Bits there are, [`ANY_PEER`] among them.
    capacity: u16,
}

/// One bit that is not free. With neither users nor leavers it is being cleared.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bit {
    /// The selectors it stands for: one, or several that match the same identities.
    users: BTreeSet<Selector>,
    /// Selectors it stood for, which entries of `POLICY` may still mean by it.
    leaving: BTreeSet<Selector>,
}

/// What a selector has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitState {
    /// A bit that the identities it matches have.
    Exact(u16),
    /// A bit that only some of the identities it matches have.
    Narrowed(u16),
    /// No bit.
    None,
}

/// A stored assignment that cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("selector bit {0} is out of range or given twice: the stored state is damaged and cannot be used")]
pub struct StoredBitsError(u16);

impl Default for SelectorBits {
    fn default() -> Self {
        Self::with_capacity(Bitmap::BITS)
    }
}

impl SelectorBits {
    /// With fewer bits than a [`Bitmap`] has; [`ANY_PEER`] is one of them.
    pub fn with_capacity(capacity: u16) -> Self {
        Self {
            bits: BTreeMap::new(),
            assigned: BTreeMap::new(),
            narrowed: BTreeSet::new(),
            capacity: capacity.min(Bitmap::BITS),
        }
    }

    /// Keeps the bits in `used` free of a new meaning until [`SelectorBits::settle`]; for those found in a pinned
    /// `POLICY` whose assignment is not known.
    pub fn reserve(&mut self, used: &Bitmap) {
        for bit in (0..Bitmap::BITS).filter(|bit| *bit != ANY_PEER && used.contains(*bit)) {
            self.bits.entry(bit).or_default();
        }
    }

    /// Gives each of the `wanted` selectors a bit, and takes the bits of all others; bits stay where they are as
    /// long as possible. When bits run out, selectors that match the same identities share one. The bits that may
    /// now belong to other identities than before.
    pub fn assign(
        &mut self,
        wanted: &BTreeSet<Selector>,
        identities: &BTreeMap<Identity, Labels>,
    ) -> BTreeSet<u16> {
        let mut changed = BTreeSet::new();
        let gone: Vec<Selector> = self.assigned.keys().filter(|s| !wanted.contains(s)).cloned().collect();
        for selector in gone {
            self.leave(&selector, &mut changed);
        }
        let mut homeless = Vec::new();
        for selector in wanted {
            if !self.assigned.contains_key(selector) && !self.take_free(selector, &mut changed) {
                homeless.push(selector);
            }
        }
        self.part(identities, &mut changed);
        if !homeless.is_empty() {
            self.share(&homeless, identities, &mut changed);
        }
        changed
    }

    /// Notes that `IDENTITY` and `POLICY` are both as desired. The bits that may now belong to other identities.
    pub fn settle(&mut self) -> BTreeSet<u16> {
        self.bits.retain(|_, bit| !bit.users.is_empty() || !bit.leaving.is_empty());
        let mut changed = BTreeSet::new();
        for (number, bit) in &mut self.bits {
            if !bit.leaving.is_empty() {
                bit.leaving.clear();
                changed.insert(*number);
            }
        }
        changed
    }

    /// Whether [`SelectorBits::settle`] has something to do.
    pub fn is_unsettled(&self) -> bool {
        self.bits.values().any(|bit| bit.users.is_empty() || !bit.leaving.is_empty())
    }

    /// What a selector has.
    pub fn state(&self, selector: &Selector) -> BitState {
        match self.assigned.get(selector) {
            Some(bit) if self.narrowed.contains(bit) => BitState::Narrowed(*bit),
            Some(bit) => BitState::Exact(*bit),
            None => BitState::None,
        }
    }

    /// The bits of an identity with these labels.
    pub fn bitmap(&self, labels: &Labels) -> Bitmap {
        let mut bitmap = Bitmap::ANY;
        for (&number, bit) in &self.bits {
            if bit.matches(labels) {
                bitmap.set(number);
            }
        }
        bitmap
    }

    /// Whether an identity with these labels has the bit.
    pub fn has(&self, bit: u16, labels: &Labels) -> bool {
        bit == ANY_PEER || self.bits.get(&bit).is_some_and(|bit| bit.matches(labels))
    }

    /// Whether selectors that share a bit disagree about these labels, so that [`SelectorBits::assign`] should
    /// part them.
    pub fn disagree(&self, labels: &Labels) -> bool {
        self.shared().any(|(_, bit)| {
            let mut verdicts = bit.users.iter().map(|selector| selector.matches(labels));
            let first = verdicts.next();
            verdicts.any(|verdict| Some(verdict) != first)
        })
    }

    fn shared(&self) -> impl Iterator<Item = (u16, &Bit)> {
        self.bits.iter().filter(|(_, bit)| bit.users.len() > 1).map(|(number, bit)| (*number, bit))
    }

    fn leave(&mut self, selector: &Selector, changed: &mut BTreeSet<u16>) {
        if let Some(number) = self.assigned.remove(selector)
            && let Some(bit) = self.bits.get_mut(&number)
            && let Some(selector) = bit.users.take(selector)
        {
            bit.leaving.insert(selector);
            changed.insert(number);
        }
    }

    fn join(&mut self, selector: &Selector, number: u16, changed: &mut BTreeSet<u16>) {
        let bit = self.bits.entry(number).or_default();
        bit.leaving.remove(selector);
        bit.users.insert(selector.clone());
        self.assigned.insert(selector.clone(), number);
        changed.insert(number);
    }

    /// Takes the bit that the selector alone is just leaving, else a free one.
    fn take_free(&mut self, selector: &Selector, changed: &mut BTreeSet<u16>) -> bool {
        let former = self
            .bits
            .iter()
            .find(|(_, bit)| bit.users.is_empty() && bit.leaving.len() == 1 && bit.leaving.contains(selector))
            .map(|(number, _)| *number);
        let number = former.or_else(|| (1..self.capacity).find(|number| !self.bits.contains_key(number)));
        if let Some(number) = number {
            self.join(selector, number, changed);
        }
        number.is_some()
    }

    /// Gives selectors that share a bit but match different identities bits of their own, while there are any.
    fn part(&mut self, identities: &BTreeMap<Identity, Labels>, changed: &mut BTreeSet<u16>) {
        self.narrowed.clear();
        let shared: Vec<(u16, BTreeSet<Selector>)> =
            self.shared().map(|(number, bit)| (number, bit.users.clone())).collect();
        for (number, users) in shared {
            let mut users = users.iter().map(|selector| (selector, matching(selector, identities)));
            let Some((_, kept)) = users.next() else { continue };
            for (selector, _) in users.filter(|(_, identities)| *identities != kept) {
                if (1..self.capacity).any(|free| !self.bits.contains_key(&free)) {
                    self.leave(selector, changed);
                    self.take_free(selector, changed);
                } else {
                    self.narrowed.insert(number);
                }
            }
        }
    }

    /// Lets selectors without a bit join one whose users match the same identities, then lets users do the same to
    /// each other, which frees bits for those that are still without one as soon as the tables have settled.
    fn share(
        &mut self,
        homeless: &[&Selector],
        identities: &BTreeMap<Identity, Labels>,
        changed: &mut BTreeSet<u16>,
    ) {
        let mut homes: BTreeMap<Vec<Identity>, u16> = BTreeMap::new();
        let mut doubles = Vec::new();
        for (number, bit) in &self.bits {
            // A bit that still narrows for someone else would match fewer than its users do.
            let Some(first) = bit.users.first().filter(|_| !self.narrowed.contains(number)) else { continue };
            if let Some(home) = homes.get(&matching(first, identities)) {
                doubles.push((bit.users.clone(), *home));
            } else if bit.leaving.is_empty() {
                homes.insert(matching(first, identities), *number);
            }
        }
        let mut all_housed = true;
        for selector in homeless {
            match homes.get(&matching(selector, identities)) {
                Some(home) => self.join(selector, *home, changed),
                None => all_housed = false,
            }
        }
        for (users, home) in doubles.into_iter().filter(|_| !all_housed) {
            for selector in users {
                self.leave(&selector, changed);
                self.join(&selector, home, changed);
            }
        }
    }
}

impl Bit {
    fn matches(&self, labels: &Labels) -> bool {
        let mut all = self.users.iter().chain(&self.leaving).peekable();
        all.peek().is_some() && all.all(|selector| selector.matches(labels))
    }
}

fn matching(selector: &Selector, identities: &BTreeMap<Identity, Labels>) -> Vec<Identity> {
    identities.iter().filter(|(_, labels)| selector.matches(labels)).map(|(id, _)| *id).collect()
}

impl From<SelectorBits> for Vec<(u16, Bit)> {
    fn from(bits: SelectorBits) -> Self {
        bits.bits.into_iter().collect()
    }
}

impl TryFrom<Vec<(u16, Bit)>> for SelectorBits {
    type Error = StoredBitsError;

    fn try_from(stored: Vec<(u16, Bit)>) -> Result<Self, Self::Error> {
        let mut bits = Self::default();
        for (number, bit) in stored {
            let twice = bit.users.iter().any(|selector| bits.assigned.contains_key(selector));
            if number == ANY_PEER || number >= bits.capacity || bits.bits.contains_key(&number) || twice {
                return Err(StoredBitsError(number));
            }
            bits.assigned.extend(bit.users.iter().map(|selector| (selector.clone(), number)));
            bits.bits.insert(number, bit);
        }
        Ok(bits)
    }
}

#[cfg(test)]
mod tests;
