//! Services: the maps `SERVICE` (frontend → service), `BACKEND_SLOT` (service and slot → backend id) and `BACKEND`.
//!
//! To change a service without a gap: write new backends, then slots, then the service's count, then delete what is
//! no longer named.

use bytemuck::{Pod, Zeroable};

use crate::{Address, record::room};

/// Key of `SERVICE`: a frontend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceKey {
    address: Address,
    port: [u8; 2],
    protocol: u8,
    scope: u8,
}

impl ServiceKey {
    /// A frontend by address, port and IANA protocol number.
    #[inline(always)]
    pub const fn new(address: Address, port: u16, protocol: u8) -> Self {
        Self { address, port: port.to_be_bytes(), protocol, scope: 0 }
    }

    /// The frontend's address.
    pub const fn address(&self) -> Address {
        self.address
    }

    /// The frontend's port.
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// IANA protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

flags! {
    /// Properties of a service.
    ServiceFlags: u32 {
    }
}

/// Value of `SERVICE`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct ServiceValue {
    id: u32,
    count: u32,
    flags: ServiceFlags,
    reserved: [u8; room(20)],
}

impl ServiceValue {
    /// The service numbered `id` on this node, with backends in slots `0..count`; with none, connections are refused.
    pub const fn new(id: u32, count: u32, flags: ServiceFlags) -> Self {
        Self { id, count, flags, reserved: [0; room(20)] }
    }

    /// Its number in [`SlotKey`].
    #[inline(always)]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Backends it has.
    #[inline(always)]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Properties.
    #[inline(always)]
    pub const fn flags(&self) -> ServiceFlags {
        self.flags
    }
}

/// Key of `BACKEND_SLOT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SlotKey {
    service: u32,
    slot: u32,
}

impl SlotKey {
    /// Slot `slot` (from 0) of service `service`.
    #[inline(always)]
    pub const fn new(service: u32, slot: u32) -> Self {
        Self { service, slot }
    }

    /// The service's number.
    pub const fn service(&self) -> u32 {
        self.service
    }

    /// The slot, from 0.
    pub const fn slot(&self) -> u32 {
        self.slot
    }
}

/// Value of `BACKEND_SLOT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct SlotValue {
    backend: u32,
}

impl SlotValue {
    /// The backend with this number.
    pub const fn new(backend: u32) -> Self {
        Self { backend }
    }

    /// Number of the backend.
    #[inline(always)]
    pub const fn backend(&self) -> u32 {
        self.backend
    }
}

/// Key of `BACKEND`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Pod, Zeroable)]
#[repr(C)]
pub struct BackendKey {
    id: u32,
}

impl BackendKey {
    /// The backend with this number, unique on the node.
    #[inline(always)]
    pub const fn new(id: u32) -> Self {
        Self { id }
    }

    /// Its number.
    pub const fn id(&self) -> u32 {
        self.id
    }
}

flags! {
    /// Properties of a backend.
    BackendFlags: u32 {
        /// It is going away: chosen only when it is all there is.
        TERMINATING = 1;
    }
}

/// Value of `BACKEND`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Pod, Zeroable)]
#[repr(C)]
pub struct BackendValue {
    address: Address,
    port: [u8; 2],
    cluster: u16,
    flags: BackendFlags,
    reserved: [u8; room(8)],
}

impl BackendValue {
    /// Who answers at `address` and `port`, in the cluster with id `cluster`.
    pub const fn new(address: Address, port: u16, cluster: u16, flags: BackendFlags) -> Self {
        Self { address, port: port.to_be_bytes(), cluster, flags, reserved: [0; room(8)] }
    }

    /// Its address.
    #[inline(always)]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Its port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// Its cluster.
    pub const fn cluster(&self) -> u16 {
        self.cluster
    }

    /// Properties.
    #[inline(always)]
    pub const fn flags(&self) -> BackendFlags {
        self.flags
    }
}

record!(ServiceKey { address, port, protocol, scope });
record!(ServiceValue { id, count, flags; reserved });
record!(SlotKey { service, slot });
record!(SlotValue { backend });
record!(BackendKey { id });
record!(BackendValue { address, port, cluster, flags; reserved });

const _: () = assert!(size_of::<ServiceKey>() == 20);
const _: () = assert!(size_of::<ServiceValue>() == room(32));
const _: () = assert!(size_of::<SlotKey>() == 8);
const _: () = assert!(size_of::<BackendValue>() == room(32));
