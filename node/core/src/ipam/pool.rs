//! The assignable addresses of one prefix: a bitmap and a cursor.

use tombolo_model::{Address, Prefix};

/// Addresses of a larger prefix beyond this many are not used, which bounds the bitmap to 8 KiB.
const MAX_ADDRESSES: u32 = 1 << 16;
const WORD: u32 = u64::BITS;

#[derive(Debug)]
pub(super) struct Pool {
    prefix: Prefix,
    /// First and one past the last assignable offset.
    first: u32,
    end: u32,
    /// One bit per offset from the prefix's first address, set when the address is in use or rests.
    taken: Vec<u64>,
    count: u32,
    /// Where the search begins: just past the last address handed out, so that addresses come back late.
    cursor: u32,
}

impl Pool {
    /// None when the prefix has no assignable address. The first address (network; RFC 4291 subnet-router
    /// anycast), the second (what others use as gateway) and the last of an IPv4 prefix (broadcast) are not.
    pub(super) fn new(prefix: Prefix) -> Option<Self> {
        let host_bits = 128 - u32::from(prefix.bits());
        let total = 1u32.checked_shl(host_bits).unwrap_or(MAX_ADDRESSES).min(MAX_ADDRESSES);
        let whole = host_bits <= MAX_ADDRESSES.trailing_zeros();
        let end = if prefix.is_ipv4() && whole { total - 1 } else { total };
        let first = 2;
        (end > first && total >= 4).then(|| Self {
            prefix,
            first,
            end,
            taken: vec![0; total.div_ceil(WORD) as usize],
            count: 0,
            cursor: first,
        })
    }

    pub(super) const fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// Assignable addresses.
    pub(super) const fn size(&self) -> u32 {
        self.end - self.first
    }

    /// How many of them are in use or rest.
    pub(super) const fn taken(&self) -> u32 {
        self.count
    }

    /// Takes the next free address.
    pub(super) fn next(&mut self) -> Option<Address> {
        if self.count == self.size() {
            return None;
        }
        let offset =
            self.find_free(self.cursor, self.end).or_else(|| self.find_free(self.first, self.cursor))?;
        self.mark(offset, true);
        self.cursor = if offset + 1 == self.end { self.first } else { offset + 1 };
        Some(self.address(offset))
    }

    /// Takes this address; false when it is not assignable or taken already.
    pub(super) fn take(&mut self, address: Address) -> bool {
        self.offset(address).is_some_and(|offset| self.mark(offset, true))
    }

    /// Frees this address; nothing happens when it is not of this pool or free.
    pub(super) fn give_back(&mut self, address: Address) {
        if let Some(offset) = self.offset(address) {
            self.mark(offset, false);
        }
    }

    /// The first free offset in `from..to`, a word at a time.
    fn find_free(&self, from: u32, to: u32) -> Option<u32> {
        let mut offset = from;
        while offset < to {
            let free = !self.taken.get((offset / WORD) as usize)? >> (offset % WORD);
            if free != 0 {
                let found = offset + free.trailing_zeros();
                return (found < to).then_some(found);
            }
            offset = (offset / WORD + 1) * WORD;
        }
        None
    }

    /// Whether the bit changed.
    fn mark(&mut self, offset: u32, taken: bool) -> bool {
        let bit = 1 << (offset % WORD);
        match self.taken.get_mut((offset / WORD) as usize) {
            Some(word) if (*word & bit != 0) != taken => {
                *word ^= bit;
                self.count = if taken { self.count + 1 } else { self.count - 1 };
                true
            }
            _ => false,
        }
    }

    fn address(&self, offset: u32) -> Address {
        let base = u128::from_be_bytes(self.prefix.address().octets());
        Address::from_octets((base + u128::from(offset)).to_be_bytes())
    }

    fn offset(&self, address: Address) -> Option<u32> {
        let base = u128::from_be_bytes(self.prefix.address().octets());
        let offset = u128::from_be_bytes(address.octets()).checked_sub(base)?;
        u32::try_from(offset).ok().filter(|offset| (self.first..self.end).contains(offset))
    }
}
