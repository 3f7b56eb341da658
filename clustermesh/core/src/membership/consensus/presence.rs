//! Tells late messages from a member whose storage went back in time.
//!
//! Each message says how often its sender has started, with a nonce per start, and how many writes it had stored.
//! Writes only count up; a member that is seen with fewer than before runs on an old backup. It is told so, and
//! must rejoin instead of voting again on what it has forgotten. A tag that only the sender can make goes along, and
//! comes back with the reproach: nobody can silence a member by inventing what it has said.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::membership::{MemberId, codec::Stale};

/// What was last seen of the other members.
#[derive(Default)]
pub(super) struct Presence(BTreeMap<MemberId, Stale>);

impl Presence {
    /// Takes note of a message; the error is for its sender.
    pub(super) fn check(&mut self, from: MemberId, now: Stale) -> Result<(), Stale> {
        let known = self.0.entry(from).or_insert(now);
        let same_start = now.start == known.start && now.nonce == known.nonce;
        if same_start {
            if now.generation > known.generation {
                *known = now;
            }
            return Ok(());
        }
        if now.start <= known.start || now.generation < known.generation {
            return Err(*known);
        }
        *known = now;
        Ok(())
    }

    /// Forgets those who are no members any more.
    pub(super) fn retain(&mut self, is_member: impl Fn(MemberId) -> bool) {
        self.0.retain(|id, _| is_member(*id));
    }
}

/// What only the owner of the key can say of itself.
pub(super) fn tag(key: &[u8; 32], member: MemberId, said: Stale) -> u64 {
    let mut hash = Sha256::new_with_prefix(key);
    hash.update(member.get().to_be_bytes());
    hash.update(said.start.to_be_bytes());
    hash.update(said.nonce.to_be_bytes());
    hash.update(said.generation.to_be_bytes());
    hash.finalize().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Whether what others have seen of this member proves that it has forgotten something.
pub(super) fn is_proof(own: Stale, seen: Stale) -> bool {
    if (seen.start, seen.nonce) == (own.start, own.nonce) {
        return false;
    }
    seen.start >= own.start || seen.generation > own.generation
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(start: u32, nonce: u64, generation: u64) -> Stale {
        Stale { start, nonce, generation, tag: 0 }
    }

    #[test]
    fn only_an_old_backup_is_told_so() {
        let member = MemberId::from_bits(1 << 12 | 1).unwrap();
        let mut presence = Presence::default();
        assert_eq!(presence.check(member, seen(1, 10, 5)), Ok(()));
        assert_eq!(presence.check(member, seen(1, 10, 3)), Ok(()), "reordered");
        assert_eq!(presence.check(member, seen(2, 20, 6)), Ok(()), "restarted");
        let late = presence.check(member, seen(1, 10, 5)).unwrap_err();
        assert!(!is_proof(seen(2, 20, 6), late), "a late message harms nobody");

        let restored = seen(2, 99, 4);
        assert!(is_proof(restored, presence.check(member, restored).unwrap_err()));
        let restored = seen(3, 99, 4);
        assert!(is_proof(restored, presence.check(member, restored).unwrap_err()));
    }
}
