//! The maps. All programs of a node share them through pins of the same name.

use bytemuck::Pod;

use crate::{Field, Record};

/// Kinds of maps, by the names that bpf(2) gives them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`: the kernel makes room by forgetting what was not used for long.
    LruHash,
    /// `BPF_MAP_TYPE_LPM_TRIE`: longest prefix match.
    LpmTrie,
    /// `BPF_MAP_TYPE_ARRAY`: all indices below the number of entries are there.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`: the same, with a value for each CPU.
    PerCpuArray,
    /// `BPF_MAP_TYPE_RINGBUF`: a queue of values, without keys.
    RingBuf,
}

/// What a map is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapSpec {
    /// Its name, which is also that of its pin.
    pub name: &'static str,
    /// Its kind.
    pub kind: MapKind,
    /// Size of a key in bytes; 0 for a ring buffer.
    pub key_size: usize,
    /// Size of a value in bytes, for a ring buffer that of what the programs put into it.
    pub value_size: usize,
    /// Fields of a key.
    pub key_fields: &'static [Field],
    /// Fields of a value.
    pub value_fields: &'static [Field],
    /// How many entries it can have; of a ring buffer its size in bytes.
    pub entries: u32,
    /// Raised when a key or a value gets another meaning. The loader refuses another version unless `CONVERTIBLE` in its
    /// `carry.rs` allows the pair.
    pub version: u32,
}

/// A key of a map with longest prefix match.
pub trait TrieKey: Copy {
    /// The key without its length.
    type Data: Pod;
    /// Length in bits and data.
    fn split(&self) -> (u32, Self::Data);
    /// The opposite.
    fn join(len: u32, data: Self::Data) -> Self;
}

/// Calls a macro with the list of all maps, the one place where they are listed. The macro takes
///
/// ```text
/// ($($(#[$doc:meta])* $name:ident $method:ident: $kind:ident<$key:ty, $value:ty>,
///    entries $entries:expr, version $version:literal;)*)
/// ```
///
/// where `$kind` is one of [`MapKind`], and the others are what [`MapSpec`] says.
#[macro_export]
macro_rules! for_each_map {
    ($callback:ident) => {
        $callback! {
            /// Pods of this node.
            ENDPOINT endpoint: Hash<$crate::AddressKey, $crate::EndpointValue>, entries 16_384, version 1;
            /// Owners of addresses that are known by themselves.
            ADDRESS address: Hash<$crate::AddressKey, $crate::AddressValue>, entries 1 << 20, version 1;
            /// Owners of prefixes.
            PREFIX prefix: LpmTrie<$crate::PrefixKey, $crate::AddressValue>, entries 1 << 18, version 1;
            /// Selectors of identities.
            IDENTITY identity: Hash<u32, $crate::Bitmap>, entries 1 << 20, version 1;
            /// Rules.
            POLICY policy: LpmTrie<$crate::PolicyKey, $crate::PolicyValue>, entries 1 << 17, version 1;
            /// Frontends.
            SERVICE service: Hash<$crate::ServiceKey, $crate::ServiceValue>, entries 1 << 18, version 1;
            /// Slots of all services together.
            BACKEND_SLOT backend_slot: Hash<$crate::SlotKey, $crate::SlotValue>, entries 1 << 20, version 1;
            /// Backends.
            BACKEND backend: Hash<$crate::BackendKey, $crate::BackendValue>, entries 1 << 19, version 1;
            /// Connections. User space reads them, and removes what has expired.
            FLOW flow: LruHash<$crate::FlowKey, $crate::FlowValue>, entries 1 << 18, version 1;
            /// How many entries of `FLOW` each pod is charged with.
            POD_CONNECTIONS pod_connections: LruHash<$crate::PodKey, $crate::PodConnections>, entries 16_384, version 1;
            /// Masqueraded connections, two entries for each. User space reads them, and removes what has expired.
            SNAT snat: LruHash<$crate::FlowKey, $crate::SnatValue>, entries 1 << 17, version 2;
            /// Datagrams in fragments. User space only reads them.
            FRAGMENT fragment: LruHash<$crate::FragmentKey, $crate::FragmentValue>, entries 8192, version 1;
            /// Redirected sockets. User space only reads them.
            ORIGIN origin: LruHash<$crate::SocketKey, $crate::OriginValue>, entries 1 << 17, version 1;
            /// Backends of datagram sockets, one entry for each frontend that a socket asks for. User space only reads
            /// them.
            SOCKET_BACKEND socket_backend: LruHash<$crate::SocketKey, $crate::SocketBackendValue>,
                entries 1 << 17, version 1;
            /// Drops by reason.
            DROPS drops: PerCpuArray<u32, $crate::DropCount>, entries 64, version 1;
            /// Counters by what was done.
            METRICS metrics: PerCpuArray<u32, $crate::Counter>, entries 64, version 1;
            /// Drops as they happen.
            EVENTS events: RingBuf<(), $crate::DropEvent>, entries 1 << 18, version 1;
            /// What the node is, at index 0.
            CONFIG config: Array<u32, $crate::Config>, entries 1, version 1;
            /// The policy epoch, at index 0. It moves on after rules, or who they are about, have changed; then the next packet
            /// of each connection is judged as if it opened it. 0: no connection stays judged.
            POLICY_EPOCH policy_epoch: Array<u32, u32>, entries 1, version 1;
        }
    };
}

/// As many, and more in the build that the test of an upgrade takes for another version.
const fn entries(kind: MapKind, entries: u32) -> u32 {
    match kind {
        _ if !cfg!(feature = "other-layout") => entries,
        // A power of two.
        MapKind::RingBuf => entries * 2,
        _ => entries + entries.div_ceil(8),
    }
}

macro_rules! specs {
    ($($(#[$doc:meta])* $name:ident $method:ident: $kind:ident<$key:ty, $value:ty>,
       entries $entries:expr, version $version:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $name: MapSpec = MapSpec {
                name: stringify!($name),
                kind: MapKind::$kind,
                key_size: size_of::<$key>(),
                value_size: size_of::<$value>(),
                key_fields: <$key as Record>::FIELDS,
                value_fields: <$value as Record>::FIELDS,
                entries: entries(MapKind::$kind, $entries),
                version: $version,
            };
        )*

        /// All maps, in no particular order.
        pub const ALL: &[MapSpec] = &[$($name),*];
    };
}

for_each_map!(specs);

/// The programs of the version before, by the numbers of [`DeviceProgram`](crate::DeviceProgram). It is a program array, and
/// no generation describes it, since nothing of it is carried over.
pub const PREVIOUS: &str = "PREVIOUS";

const _: () = assert!(crate::DropReason::ALL.len() <= DROPS.entries as usize);
const _: () = assert!(crate::Metric::ALL.len() <= METRICS.entries as usize);
