//! Services as tables: frontends, their slots, and the backends in them.
//!
//! Only the backends that should get new connections are programmed: of the preferred clusters the ready ones, else
//! the ready ones of the others, else, by the same preference, those that terminate but still serve (KEP-1669).
//!
//! A reader of the tables never finds a slot without its backend as long as changes are written in the order
//! BACKEND updates, BACKEND_SLOT updates, SERVICE updates, then SERVICE deletes, BACKEND_SLOT deletes, BACKEND
//! deletes ([`TableId`](crate::state::TableId) has it), because numbers of services and backends come back only
//! after all 2³² have been used.

mod numbers;

use std::collections::{BTreeMap, BTreeSet};

use tombolo_abi::{
    BackendFlags, BackendKey, BackendValue, ServiceFlags, ServiceKey, ServiceValue, SlotKey, SlotValue,
};
use tombolo_model::{Address, Affinity, Backend, BackendState, ClusterId, ServicePort, ServiceRecord};

use crate::table::Table;
use numbers::Numbers;

/// What identifies a service: cluster, namespace and name.
pub type ServiceName = (ClusterId, String, String);

/// A backend of one service: the service's number, address and port.
type Place = (u32, Address, u16);

/// The service tables and what it takes to change them one service at a time.
#[derive(Debug, Default)]
pub struct Services {
    /// `SERVICE`.
    pub service: Table<ServiceKey, ServiceValue>,
    /// `BACKEND_SLOT`.
    pub slot: Table<SlotKey, SlotValue>,
    /// `BACKEND`.
    pub backend: Table<BackendKey, BackendValue>,
    /// Who asks for a frontend; the first one has it.
    claims: BTreeMap<ServiceKey, BTreeMap<ServiceName, Vec<Backend>>>,
    names: BTreeMap<ServiceName, BTreeSet<ServiceKey>>,
    services: Numbers<ServiceKey>,
    backends: Numbers<Place>,
    /// The backends of a frontend, in slot order.
    placed: BTreeMap<ServiceKey, Vec<u32>>,
}

impl Services {
    /// Takes over the numbers found in pinned maps, so that nothing there changes its meaning, and gives none of those of
    /// backends up to `remembered`, which connections and sockets may still know. Call before the first change.
    pub fn adopt(
        &mut self,
        services: &BTreeMap<ServiceKey, ServiceValue>,
        slots: &BTreeMap<SlotKey, SlotValue>,
        backends: &BTreeMap<BackendKey, BackendValue>,
        remembered: u32,
    ) {
        for (key, value) in services {
            self.services.adopt(*key, value.id());
        }
        for (key, value) in slots {
            if let Some(backend) = backends.get(&BackendKey::new(value.backend())) {
                let place = (key.service(), Address::from_octets(backend.address()), backend.port());
                self.backends.adopt(place, value.backend());
            }
        }
        // Numbers that nothing names any more wait for deletion and must not come back before.
        slots.keys().for_each(|key| self.services.skip(key.service()));
        backends.keys().for_each(|key| self.backends.skip(key.id()));
        self.backends.skip(remembered);
    }

    /// A service is now like this, or gone.
    pub fn apply(&mut self, own: ClusterId, name: &ServiceName, record: Option<&ServiceRecord>) {
        let mut touched = self.names.remove(name).unwrap_or_default();
        for key in &touched {
            if let Some(claims) = self.claims.get_mut(key) {
                claims.remove(name);
            }
        }
        if let Some(record) = record {
            let frontends = frontends(own, record);
            self.names.insert(name.clone(), frontends.keys().copied().collect());
            for (key, backends) in frontends {
                touched.insert(key);
                self.claims.entry(key).or_default().insert(name.clone(), backends);
            }
        }
        for key in touched {
            self.program(key);
        }
    }

    fn program(&mut self, key: ServiceKey) {
        let Some(backends) = self.claims.get(&key).and_then(|claims| claims.values().next()) else {
            self.claims.remove(&key);
            self.withdraw(key);
            return;
        };
        let service = self.services.get(key);
        let before = self.placed.remove(&key).unwrap_or_default();
        let mut now = BTreeMap::new();
        for backend in backends {
            let id = self.backends.get((service, backend.address, backend.port));
            now.insert(id, backend_value(backend));
        }
        for id in before.iter().filter(|id| !now.contains_key(id)) {
            self.drop_backend(*id);
        }
        let ids: Vec<u32> = now.keys().copied().collect();
        for (id, value) in now {
            self.backend.set(BackendKey::new(id), Some(value));
        }
        let count = self.fill_slots(service, &ids, before.len());
        self.service.set(key, Some(ServiceValue::new(service, count, ServiceFlags::NONE)));
        self.placed.insert(key, ids);
    }

    fn withdraw(&mut self, key: ServiceKey) {
        let before = self.placed.remove(&key).unwrap_or_default();
        if let Some(service) = self.services.release(&key) {
            self.fill_slots(service, &[], before.len());
        }
        before.into_iter().for_each(|id| self.drop_backend(id));
        self.service.set(key, None);
    }

    /// The number of slots.
    fn fill_slots(&mut self, service: u32, backends: &[u32], before: usize) -> u32 {
        let mut count = 0;
        for (slot, id) in (0..).zip(backends) {
            self.slot.set(SlotKey::new(service, slot), Some(SlotValue::new(*id)));
            count = slot + 1;
        }
        for (slot, _) in (0..).zip(0..before).skip(backends.len()) {
            self.slot.set(SlotKey::new(service, slot), None);
        }
        count
    }

    fn drop_backend(&mut self, id: u32) {
        self.backends.release_number(id);
        self.backend.set(BackendKey::new(id), None);
    }
}

/// The frontends of a service, each with the backends that get new connections.
fn frontends(own: ClusterId, record: &ServiceRecord) -> BTreeMap<ServiceKey, Vec<Backend>> {
    let mut frontends = BTreeMap::new();
    for port in &record.ports {
        for frontend in &record.frontends {
            let key = ServiceKey::new(frontend.octets(), port.port, port.protocol.number());
            frontends.insert(key, active(own, record.affinity, port, frontend.is_ipv4()));
        }
    }
    frontends
}

/// The backends of the first tier that has any, of one address family.
fn active(own: ClusterId, affinity: Affinity, port: &ServicePort, ipv4: bool) -> Vec<Backend> {
    let tier = |backend: &Backend| {
        let state = match backend.state {
            BackendState::Ready => 0,
            BackendState::Terminating => 1,
            BackendState::NotReady => return None,
        };
        let preferred = match affinity {
            Affinity::None => true,
            Affinity::Local => backend.cluster == own,
            Affinity::Remote => backend.cluster != own,
        };
        Some((state, u8::from(!preferred)))
    };
    let family = || port.backends.iter().filter(|backend| backend.address.is_ipv4() == ipv4);
    let first = family().filter_map(tier).min();
    family().filter(|backend| first.is_some() && tier(backend) == first).cloned().collect()
}

fn backend_value(backend: &Backend) -> BackendValue {
    let flags = match backend.state {
        BackendState::Terminating => BackendFlags::TERMINATING,
        BackendState::Ready | BackendState::NotReady => BackendFlags::NONE,
    };
    BackendValue::new(backend.address.octets(), backend.port, backend.cluster.get(), flags)
}

#[cfg(test)]
mod tests;
