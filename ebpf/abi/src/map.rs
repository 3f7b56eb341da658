//! Names and sizes of the maps. All programs of a node share them through pins of the same name.

/// Pods of this node: [`AddressKey`](crate::AddressKey) → [`EndpointValue`](crate::EndpointValue), hash.
pub const ENDPOINT: &str = "ENDPOINT";
/// Most addresses of local pods.
pub const ENDPOINT_ENTRIES: u32 = 16_384;

/// Owners of addresses: [`AddressKey`](crate::AddressKey) → [`AddressValue`](crate::AddressValue), hash.
pub const ADDRESS: &str = "ADDRESS";
/// Most addresses known by themselves.
pub const ADDRESS_ENTRIES: u32 = 1 << 20;

/// Owners of prefixes: [`PrefixKey`](crate::PrefixKey) → [`AddressValue`](crate::AddressValue), LPM trie.
pub const PREFIX: &str = "PREFIX";
/// Most prefixes.
pub const PREFIX_ENTRIES: u32 = 1 << 18;

/// Selectors of identities: `u32` → [`Bitmap`](crate::Bitmap), hash.
pub const IDENTITY: &str = "IDENTITY";
/// Most identities.
pub const IDENTITY_ENTRIES: u32 = 1 << 20;

/// Rules: [`PolicyKey`](crate::PolicyKey) → [`PolicyValue`](crate::PolicyValue), LPM trie.
pub const POLICY: &str = "POLICY";
/// Most rules on a node.
pub const POLICY_ENTRIES: u32 = 1 << 17;

/// Frontends: [`ServiceKey`](crate::ServiceKey) → [`ServiceValue`](crate::ServiceValue), hash.
pub const SERVICE: &str = "SERVICE";
/// Most frontends.
pub const SERVICE_ENTRIES: u32 = 1 << 18;

/// Slots of services: [`SlotKey`](crate::SlotKey) → [`SlotValue`](crate::SlotValue), hash.
pub const BACKEND_SLOT: &str = "BACKEND_SLOT";
/// Most slots of all services together.
pub const BACKEND_SLOT_ENTRIES: u32 = 1 << 20;

/// Backends: [`BackendKey`](crate::BackendKey) → [`BackendValue`](crate::BackendValue), hash.
pub const BACKEND: &str = "BACKEND";
/// Most backends.
pub const BACKEND_ENTRIES: u32 = 1 << 19;

/// Connections: [`FlowKey`](crate::FlowKey) → [`FlowValue`](crate::FlowValue), LRU hash.
pub const FLOW: &str = "FLOW";
/// Connections remembered.
pub const FLOW_ENTRIES: u32 = 1 << 18;

/// Masquerading: [`FlowKey`](crate::FlowKey) → [`SnatValue`](crate::SnatValue), LRU hash.
pub const SNAT: &str = "SNAT";
/// Masqueraded connections remembered, two entries for each.
pub const SNAT_ENTRIES: u32 = 1 << 17;

/// Datagrams in fragments: [`FragmentKey`](crate::FragmentKey) → [`FragmentValue`](crate::FragmentValue), LRU hash.
pub const FRAGMENT: &str = "FRAGMENT";
/// Fragmented datagrams remembered.
pub const FRAGMENT_ENTRIES: u32 = 8192;

/// Redirected sockets: [`OriginKey`](crate::OriginKey) → [`OriginValue`](crate::OriginValue), LRU hash.
pub const ORIGIN: &str = "ORIGIN";
/// Redirected sockets remembered.
pub const ORIGIN_ENTRIES: u32 = 1 << 17;

/// Drops by reason: `u32` → [`DropCount`](crate::DropCount), per-CPU array.
pub const DROPS: &str = "DROPS";
/// Room for reasons.
pub const DROPS_ENTRIES: u32 = 64;

/// Counters: `u32` → [`Counter`](crate::Counter), per-CPU array.
pub const METRICS: &str = "METRICS";
/// Room for counters.
pub const METRICS_ENTRIES: u32 = 64;

/// Drops as they happen: [`DropEvent`](crate::DropEvent), ring buffer.
pub const EVENTS: &str = "EVENTS";
/// Bytes of the ring buffer.
pub const EVENTS_BYTES: u32 = 1 << 18;

/// What the node is: index 0 → [`Config`](crate::Config), array.
pub const CONFIG: &str = "CONFIG";

/// The maps that programs share, in no particular order.
pub const ALL: [&str; 16] = [
    ENDPOINT,
    ADDRESS,
    PREFIX,
    IDENTITY,
    POLICY,
    SERVICE,
    BACKEND_SLOT,
    BACKEND,
    FLOW,
    SNAT,
    FRAGMENT,
    ORIGIN,
    DROPS,
    METRICS,
    EVENTS,
    CONFIG,
];

const _: () = assert!(crate::DropReason::ALL.len() <= DROPS_ENTRIES as usize);
const _: () = assert!(crate::Metric::ALL.len() <= METRICS_ENTRIES as usize);
