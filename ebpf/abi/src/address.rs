//! Who an address belongs to: the maps `ADDRESS` (single addresses) and `PREFIX` (longest prefix match).

use bytemuck::{Pod, Zeroable};

use crate::TrieKey;

/// An address in network order, IPv4 as v4-mapped IPv6.
pub type Address = [u8; 16];

/// The 16-byte form of an IPv4 address.
#[inline(always)]
pub const fn v4_mapped(v4: [u8; 4]) -> Address {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// Whether an address is the 16-byte form of an IPv4 address. Compares words: bytes would be a loop in BPF code.
#[inline(always)]
pub const fn is_v4_mapped(a: &Address) -> bool {
    let zeros = u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    zeros == 0 && u32::from_be_bytes([a[8], a[9], a[10], a[11]]) == 0xffff
}

/// Identities that the datapath itself knows; all others are the cluster id in the upper 12 bits and the number
/// within it in the lower 20.
pub mod identity {
    /// No identity is known.
    pub const UNKNOWN: u32 = 0;
    /// This node's own addresses. Its traffic is always let into its pods, so that probes work.
    pub const HOST: u32 = 1;
    /// Everything that neither `ADDRESS` nor `PREFIX` knows.
    pub const WORLD: u32 = 2;
    /// Any other node of the mesh.
    pub const REMOTE_NODE: u32 = 3;
    /// A pod whose labels are not known yet.
    pub const INIT: u32 = 4;
}

/// Key of `ADDRESS` and `ENDPOINT`: one address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct AddressKey {
    address: Address,
}

impl AddressKey {
    /// The key of an address.
    #[inline(always)]
    pub const fn new(address: Address) -> Self {
        Self { address }
    }

    /// The key of an address where it stands.
    #[inline(always)]
    pub fn of(address: &Address) -> &Self {
        bytemuck::cast_ref(address)
    }

    /// The address.
    pub const fn address(&self) -> Address {
        self.address
    }
}

/// Key of `PREFIX`: a prefix of the 16-byte form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct PrefixKey {
    prefix_len: u32,
    address: Address,
}

impl PrefixKey {
    /// The first `prefix_len` bits (0..=128; of the 16-byte form, so 10.0.0.0/8 has 104) of `address`. Larger lengths
    /// count as 128. Bits behind the prefix should be zero, so that equal prefixes are equal keys.
    #[inline(always)]
    pub const fn new(address: Address, prefix_len: u8) -> Self {
        Self { prefix_len: if prefix_len > 128 { 128 } else { prefix_len as u32 }, address }
    }

    /// Length in bits, 0..=128.
    pub const fn prefix_len(&self) -> u32 {
        self.prefix_len
    }

    /// The address.
    pub const fn address(&self) -> Address {
        self.address
    }
}

impl TrieKey for PrefixKey {
    type Data = Address;

    fn split(&self) -> (u32, Address) {
        (self.prefix_len, self.address)
    }

    fn join(len: u32, data: Address) -> Self {
        Self::new(data, u8::try_from(len).unwrap_or(u8::MAX))
    }
}

flags! {
    /// How an address is reached.
    AddressFlags: u32 {
        /// Behind the tunnel device: a pod or a node of another cluster. Its packets are accepted from the tunnel
        /// only, and packets of pods to it leave by the tunnel only.
        TUNNEL = 1;
        /// An address of this node, including the gateway address of its pods.
        HOST = 2;
        /// Pods reach it with their own address: pods and nodes of the own cluster. Without this flag (and without
        /// `TUNNEL` and `HOST`), packets of pods leave with the node's address.
        NO_MASQUERADE = 4;
    }
}

/// Value of `ADDRESS` and `PREFIX`. An entry of `ADDRESS` hides those of `PREFIX`, so it carries all the flags of
/// the prefixes around it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct AddressValue {
    identity: u32,
    flags: AddressFlags,
}

impl AddressValue {
    /// What an address is that no map knows.
    pub const WORLD: Self = Self::new(identity::WORLD, AddressFlags::NONE);

    /// An owner ([`identity`]) and the way to it.
    #[inline(always)]
    pub const fn new(identity: u32, flags: AddressFlags) -> Self {
        Self { identity, flags }
    }

    /// The owner's identity.
    #[inline(always)]
    pub const fn identity(&self) -> u32 {
        self.identity
    }

    /// How it is reached.
    #[inline(always)]
    pub const fn flags(&self) -> AddressFlags {
        self.flags
    }
}

record!(AddressKey { address });
record!(PrefixKey { prefix_len, address });
record!(AddressValue { identity, flags });

const _: () = assert!(size_of::<AddressKey>() == 16);
const _: () = assert!(size_of::<PrefixKey>() == 20);
const _: () = assert!(size_of::<AddressValue>() == 8);
