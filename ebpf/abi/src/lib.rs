//! Layout of BPF map keys and values, drop reasons and events, shared by kernel and user space.
//!
//! Conventions: addresses are 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2);
//! ports stand in network order inside keys and values and are plain `u16` at every constructor and getter; all
//! other numbers are native. No type has padding, so that the bytes of equal values are equal and a value can be
//! written and read as bytes ([`bytemuck::Pod`]). What is added to a record goes into its reserved bytes or
//! changes its size; the loader then makes a new generation of maps and carries the entries over. Each key and value says
//! which fields it has ([`Record`]).
#![cfg_attr(not(test), no_std)]

#[macro_use]
mod flags;
#[macro_use]
mod record;
mod address;
mod config;
mod drops;
mod endpoint;
mod flow;
pub mod map;
mod metrics;
mod nat;
mod pod_connections;
mod policy;
mod service;
mod socket;

pub use address::{
    Address, AddressFlags, AddressKey, AddressValue, PrefixKey, identity, is_v4_mapped, v4_mapped,
};
pub use config::{Config, ConfigBuilder, ConfigFlags};
pub use drops::{DropCount, DropEvent, DropEventFacts, DropReason, UnknownDropReason};
pub use endpoint::{EndpointFlags, EndpointValue, Mac};
pub use flow::{FlowFlags, FlowKey, FlowValue, FragmentKey, FragmentValue, Scope};
pub use map::{MapKind, MapSpec, TrieKey};
pub use metrics::{Counter, DeviceProgram, Hook, Metric};
pub use nat::{NatPorts, NatTimeouts, SnatValue, forward_key, forward_of, reverse_key};
pub use pod_connections::{Account, PodConnections, PodKey};
pub use policy::{ANY_PEER, Bitmap, Direction, PolicyKey, PolicyValue};
pub use record::{Field, FieldKind, Record};
pub use service::{
    BackendFlags, BackendKey, BackendValue, ServiceFlags, ServiceKey, ServiceValue, SlotKey, SlotValue,
};
pub use socket::{OriginValue, SocketBackendValue, SocketKey};

/// IANA protocol numbers that the datapath knows.
pub mod protocol {
    /// RFC 792.
    pub const ICMP: u8 = 1;
    /// RFC 9293.
    pub const TCP: u8 = 6;
    /// RFC 768.
    pub const UDP: u8 = 17;
    /// RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// RFC 9260.
    pub const SCTP: u8 = 132;
}
