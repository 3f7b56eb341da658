//! The desired tables of a node, and the order in which to write them.

use tombolo_abi::{
    AddressKey, AddressValue, BackendKey, BackendValue, Bitmap, EndpointValue, PolicyKey, PolicyValue,
    PrefixKey, ServiceKey, ServiceValue, SlotKey, SlotValue,
};
use tombolo_model::Prefix;

use super::State;
use crate::{
    routes::NextHop,
    table::Table,
    tunnel::{PublicKey, TunnelPeer},
};

/// The tables, in the order in which updates are written: what is pointed to before what points to it. Deletes go in
/// the reverse order, after all updates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TableId {
    /// WireGuard peers.
    Peer,
    /// Kernel routes.
    Route,
    /// `IDENTITY`.
    Identity,
    /// `PREFIX`.
    Prefix,
    /// `ADDRESS`.
    Address,
    /// `POLICY`.
    Policy,
    /// `ENDPOINT`.
    Endpoint,
    /// `BACKEND`.
    Backend,
    /// `BACKEND_SLOT`.
    Slot,
    /// `SERVICE`.
    Service,
}

impl TableId {
    /// All tables in order.
    pub const ALL: [Self; 10] = [
        Self::Peer,
        Self::Route,
        Self::Identity,
        Self::Prefix,
        Self::Address,
        Self::Policy,
        Self::Endpoint,
        Self::Backend,
        Self::Slot,
        Self::Service,
    ];
}

/// The tables. They are mutable for [`Table::take_changed`] only.
impl State {
    /// WireGuard peers by public key.
    pub const fn peers(&mut self) -> &mut Table<PublicKey, TunnelPeer> {
        &mut self.peers
    }

    /// Kernel routes by destination.
    pub const fn routes(&mut self) -> &mut Table<Prefix, NextHop> {
        &mut self.routes
    }

    /// `IDENTITY`.
    pub const fn identity(&mut self) -> &mut Table<u32, Bitmap> {
        &mut self.policies.identity
    }

    /// `PREFIX`.
    pub const fn prefix(&mut self) -> &mut Table<PrefixKey, AddressValue> {
        &mut self.prefixes
    }

    /// `ADDRESS`.
    pub const fn address(&mut self) -> &mut Table<AddressKey, AddressValue> {
        &mut self.addresses.table
    }

    /// `POLICY`.
    pub const fn policy(&mut self) -> &mut Table<PolicyKey, PolicyValue> {
        &mut self.policies.policy
    }

    /// `ENDPOINT`.
    pub const fn endpoint(&mut self) -> &mut Table<AddressKey, EndpointValue> {
        &mut self.policies.endpoint
    }

    /// `BACKEND`.
    pub const fn backend(&mut self) -> &mut Table<BackendKey, BackendValue> {
        &mut self.services.backend
    }

    /// `BACKEND_SLOT`.
    pub const fn slot(&mut self) -> &mut Table<SlotKey, SlotValue> {
        &mut self.services.slot
    }

    /// `SERVICE`.
    pub const fn service(&mut self) -> &mut Table<ServiceKey, ServiceValue> {
        &mut self.services.service
    }

    pub(super) fn is_changed(&self, table: TableId) -> bool {
        match table {
            TableId::Peer => self.peers.is_changed(),
            TableId::Route => self.routes.is_changed(),
            TableId::Identity => self.policies.identity.is_changed(),
            TableId::Prefix => self.prefixes.is_changed(),
            TableId::Address => self.addresses.table.is_changed(),
            TableId::Policy => self.policies.policy.is_changed(),
            TableId::Endpoint => self.policies.endpoint.is_changed(),
            TableId::Backend => self.services.backend.is_changed(),
            TableId::Slot => self.services.slot.is_changed(),
            TableId::Service => self.services.service.is_changed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tombolo_abi::{MapKind, MapSpec, map};

    use super::*;

    fn map_of(table: TableId) -> Option<MapSpec> {
        match table {
            TableId::Peer | TableId::Route => None,
            TableId::Identity => Some(map::IDENTITY),
            TableId::Prefix => Some(map::PREFIX),
            TableId::Address => Some(map::ADDRESS),
            TableId::Policy => Some(map::POLICY),
            TableId::Endpoint => Some(map::ENDPOINT),
            TableId::Backend => Some(map::BACKEND),
            TableId::Slot => Some(map::BACKEND_SLOT),
            TableId::Service => Some(map::SERVICE),
        }
    }

    #[test]
    fn each_map_that_user_space_fills_is_a_table() {
        for map in map::ALL {
            let filled = matches!(map.kind, MapKind::Hash | MapKind::LpmTrie);
            let tables = TableId::ALL.into_iter().filter(|table| map_of(*table) == Some(*map)).count();
            assert_eq!(tables, usize::from(filled), "{}", map.name);
        }
    }
}
