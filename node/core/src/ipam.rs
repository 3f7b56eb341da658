//! Host-scope address management: which pod of this node has which address.

mod pool;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tombolo_model::{Address, Prefix};

use crate::endpoints::AttachmentId;
use pool::Pool;

/// How long a released address rests before it is handed out again, unless configured otherwise: longer than the
/// time that caches of the old pod's address (DNS answers, service backends) take to follow.
pub const DEFAULT_REST: Duration = Duration::from_secs(30);

/// Hands out addresses of the node's pod prefixes, one per family and owner.
///
/// Times are durations since any fixed point, which must not go backwards; a step back only makes an address rest
/// longer.
#[derive(Debug)]
pub struct Ipam {
    pools: Vec<Pool>,
    owners: BTreeMap<AttachmentId, Vec<Address>>,
    in_use: BTreeMap<Address, AttachmentId>,
    resting: VecDeque<(Duration, Address)>,
    rest: Duration,
}

/// Why an allocator cannot work with the prefixes it was given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PrefixError {
    /// Nothing is left after the addresses that are never handed out.
    #[error("pod prefix {0} is too small: give the node at least 4 addresses (/30 for IPv4, /126 for IPv6)")]
    TooSmall(Prefix),
    /// Two prefixes share addresses.
    #[error("pod prefixes {0} and {1} overlap: give the node disjoint ones in Node.spec.podCIDRs")]
    Overlap(Prefix, Prefix),
}

/// Why no address can be given.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AllocateError {
    /// The node has no prefix.
    #[error("the node has no pod prefix: wait until Node.spec.podCIDRs is set")]
    NoPrefix,
    /// All addresses of the last prefix of a family are in use or rest.
    #[error(
        "no address is left in pod prefix {prefix}: {in_use} of {size} are in use and {resting} rest after release; \
         delete pods of this node or give it a larger prefix"
    )]
    Exhausted {
        /// The prefix.
        prefix: Prefix,
        /// Addresses it can hand out.
        size: u32,
        /// Of these, how many have an owner.
        in_use: u32,
        /// Of these, how many rest.
        resting: u32,
    },
    /// The address belongs to no prefix of this node, or is one of those that are never handed out.
    #[error(
        "address {0} cannot be given: it is not among the assignable addresses of this node's pod prefixes"
    )]
    Outside(Address),
    /// The address has another owner.
    #[error("address {0} is in use by {1}: choose another one")]
    InUse(Address, AttachmentId),
    /// The address was released a short time ago.
    #[error("address {0} was released a short time ago: choose another one or wait {1:?}")]
    Resting(Address, Duration),
}

/// Two owners of one address in a restored state.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("address {address} has two owners, {first} and {second}: delete one of the two pods")]
pub struct RestoreError {
    /// The address.
    pub address: Address,
    /// Who keeps it.
    pub first: AttachmentId,
    /// Who was refused.
    pub second: AttachmentId,
}

impl Ipam {
    /// An allocator over disjoint `prefixes` of any family; released addresses rest for `rest`. Of a prefix with
    /// more than 65,536 addresses the first 65,536 are used.
    pub fn new(prefixes: &[Prefix], rest: Duration) -> Result<Self, PrefixError> {
        for (i, &a) in prefixes.iter().enumerate() {
            if let Some(&b) = prefixes.iter().skip(i + 1).find(|b| a.overlaps(**b)) {
                return Err(PrefixError::Overlap(a, b));
            }
        }
        let pools = prefixes
            .iter()
            .map(|&p| Pool::new(p).ok_or(PrefixError::TooSmall(p)))
            .collect::<Result<_, _>>()?;
        Ok(Self { pools, owners: BTreeMap::new(), in_use: BTreeMap::new(), resting: VecDeque::new(), rest })
    }

    /// One address per family of the node's prefixes, IPv4 first; the same ones again for an owner that has some.
    pub fn allocate(&mut self, owner: &AttachmentId, now: Duration) -> Result<Vec<Address>, AllocateError> {
        if let Some(addresses) = self.owners.get(owner) {
            return Ok(addresses.clone());
        }
        if self.pools.is_empty() {
            return Err(AllocateError::NoPrefix);
        }
        self.wake(now);
        let mut addresses = Vec::new();
        for ipv4 in [true, false] {
            match self.allocate_family(ipv4) {
                Ok(address) => addresses.extend(address),
                Err(error) => {
                    for address in addresses {
                        self.give_back(address);
                    }
                    return Err(error);
                }
            }
        }
        self.own(owner, &addresses);
        Ok(addresses)
    }

    /// This very address, added to those the owner has; nothing changes when it has it already.
    pub fn allocate_specific(
        &mut self,
        owner: &AttachmentId,
        address: Address,
        now: Duration,
    ) -> Result<(), AllocateError> {
        match self.in_use.get(&address) {
            Some(holder) if holder == owner => return Ok(()),
            Some(holder) => return Err(AllocateError::InUse(address, holder.clone())),
            None => {}
        }
        self.wake(now);
        if let Some((until, _)) = self.resting.iter().find(|(_, a)| *a == address) {
            return Err(AllocateError::Resting(address, until.saturating_sub(now)));
        }
        if !self.pools.iter_mut().any(|pool| pool.take(address)) {
            return Err(AllocateError::Outside(address));
        }
        self.own(owner, &[address]);
        Ok(())
    }

    /// Takes the owner's addresses back and returns them; none for an unknown owner.
    pub fn release(&mut self, owner: &AttachmentId, now: Duration) -> Vec<Address> {
        let addresses = self.owners.remove(owner).unwrap_or_default();
        for &address in &addresses {
            self.in_use.remove(&address);
            self.resting.push_back((now.saturating_add(self.rest), address));
        }
        addresses
    }

    /// Notes what an owner had before a restart. An address outside of the prefixes (they may have changed) stays
    /// with its owner until released. On an error the owner gets nothing.
    pub fn restore(&mut self, owner: &AttachmentId, addresses: &[Address]) -> Result<(), RestoreError> {
        for address in addresses {
            if let Some(first) = self.in_use.get(address).filter(|holder| *holder != owner) {
                return Err(RestoreError { address: *address, first: first.clone(), second: owner.clone() });
            }
        }
        for &address in addresses {
            self.pools.iter_mut().any(|pool| pool.take(address));
            self.resting.retain(|(_, resting)| *resting != address);
            if !self.in_use.contains_key(&address) {
                self.own(owner, &[address]);
            }
        }
        Ok(())
    }

    /// Every owner with its addresses.
    pub fn owners(&self) -> impl Iterator<Item = (&AttachmentId, &[Address])> {
        self.owners.iter().map(|(owner, addresses)| (owner, addresses.as_slice()))
    }

    /// Who has the address.
    pub fn owner(&self, address: Address) -> Option<&AttachmentId> {
        self.in_use.get(&address)
    }

    /// Assignable addresses per prefix, and how many of them are taken or rest.
    pub fn usage(&self) -> impl Iterator<Item = (Prefix, u32, u32)> {
        self.pools.iter().map(|pool| (pool.prefix(), pool.size(), pool.taken()))
    }

    fn own(&mut self, owner: &AttachmentId, addresses: &[Address]) {
        for &address in addresses {
            self.in_use.insert(address, owner.clone());
            self.owners.entry(owner.clone()).or_default().push(address);
        }
    }

    /// None when no prefix is of that family.
    fn allocate_family(&mut self, ipv4: bool) -> Result<Option<Address>, AllocateError> {
        let mut last = None;
        for pool in self.pools.iter_mut().filter(|pool| pool.prefix().is_ipv4() == ipv4) {
            if let Some(address) = pool.next() {
                return Ok(Some(address));
            }
            last = Some((pool.prefix(), pool.size()));
        }
        let Some((prefix, size)) = last else { return Ok(None) };
        let inside = |address: &&Address| prefix.contains(**address);
        let resting = count(self.resting.iter().map(|(_, address)| address).filter(inside));
        let in_use = count(self.in_use.keys().filter(inside));
        Err(AllocateError::Exhausted { prefix, size, in_use, resting })
    }

    fn wake(&mut self, now: Duration) {
        while let Some((until, address)) = self.resting.front().copied()
            && until <= now
        {
            self.resting.pop_front();
            self.give_back(address);
        }
    }

    fn give_back(&mut self, address: Address) {
        for pool in &mut self.pools {
            pool.give_back(address);
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
