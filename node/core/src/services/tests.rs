use proptest::prelude::*;
use tombolo_model::Protocol;

use super::*;

fn cluster(id: u16) -> ClusterId {
    ClusterId::try_from(id).unwrap()
}

fn backend(address: &str, id: u16, state: BackendState) -> Backend {
    Backend {
        address: address.parse().unwrap(),
        port: 8080,
        cluster: cluster(id),
        node: String::new(),
        zone: String::new(),
        state,
    }
}

fn record(affinity: Affinity, backends: Vec<Backend>) -> ServiceRecord {
    ServiceRecord {
        cluster: cluster(1),
        namespace: "shop".into(),
        name: "web".into(),
        frontends: vec!["10.96.0.10".parse().unwrap()],
        global: true,
        shared: true,
        affinity,
        on_cluster_loss: tombolo_model::OnClusterLoss::Drain,
        ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, backends }],
    }
}

fn name() -> ServiceName {
    (cluster(1), "shop".into(), "web".into())
}

/// What a client of the frontend may reach, by following the tables as the datapath does.
fn reachable(services: &Services) -> Option<Vec<String>> {
    let key = ServiceKey::new("10.96.0.10".parse::<Address>().unwrap().octets(), 80, 6);
    let value = services.service.entries().get(&key)?;
    let slots = (0..value.count()).map(|slot| services.slot.entries()[&SlotKey::new(value.id(), slot)]);
    let backends = slots.map(|slot| services.backend.entries()[&BackendKey::new(slot.backend())]);
    Some(backends.map(|b| Address::from_octets(b.address()).to_string()).collect())
}

fn applied(affinity: Affinity, backends: &[(&str, u16, BackendState)]) -> Vec<String> {
    let backends = backends.iter().map(|(a, c, s)| backend(a, *c, *s)).collect();
    let mut services = Services::default();
    services.apply(cluster(1), &name(), Some(&record(affinity, backends)));
    reachable(&services).unwrap()
}

#[test]
fn the_first_tier_with_backends_is_programmed() {
    use BackendState::{NotReady, Ready, Terminating};
    let (local, remote) = ("10.1.0.2", "10.2.0.2");
    assert_eq!(applied(Affinity::None, &[(local, 1, Ready), (remote, 2, Ready)]), [local, remote]);
    assert_eq!(applied(Affinity::Local, &[(local, 1, Ready), (remote, 2, Ready)]), [local]);
    assert_eq!(applied(Affinity::Remote, &[(local, 1, Ready), (remote, 2, Ready)]), [remote]);
    assert_eq!(applied(Affinity::Local, &[(local, 1, NotReady), (remote, 2, Ready)]), [remote]);
    assert_eq!(applied(Affinity::Local, &[(local, 1, Terminating), (remote, 2, Ready)]), [remote]);
    assert_eq!(applied(Affinity::Local, &[(local, 1, Terminating), (remote, 2, Terminating)]), [local]);
    assert_eq!(applied(Affinity::Remote, &[(local, 1, Ready)]), [local]);
    assert!(applied(Affinity::None, &[(local, 1, NotReady)]).is_empty());
    assert!(applied(Affinity::None, &[("fd00::2", 1, Ready)]).is_empty());
}

#[test]
fn numbers_are_kept_and_adopted() {
    use BackendState::Ready;
    let full = record(Affinity::None, vec![backend("10.1.0.2", 1, Ready), backend("10.1.0.3", 1, Ready)]);
    let less = record(Affinity::None, vec![backend("10.1.0.3", 1, Ready)]);
    let mut services = Services::default();
    services.apply(cluster(1), &name(), Some(&full));
    services.apply(cluster(1), &name(), Some(&less));
    assert_eq!(services.slot.entries()[&SlotKey::new(1, 0)].backend(), 2);
    services.apply(cluster(1), &name(), Some(&full));
    assert_eq!(reachable(&services).unwrap(), ["10.1.0.3", "10.1.0.2"]);

    let mut restarted = Services::default();
    restarted.adopt(services.service.entries(), services.slot.entries(), services.backend.entries(), 0);
    restarted.apply(cluster(1), &name(), Some(&full));
    assert_eq!(restarted.service.entries(), services.service.entries());
    assert_eq!(restarted.slot.entries(), services.slot.entries());
    assert_eq!(restarted.backend.entries(), services.backend.entries());
}

#[test]
fn numbers_that_connections_remember_do_not_come_back() {
    use BackendState::Ready;
    let full = record(Affinity::None, vec![backend("10.1.0.2", 1, Ready), backend("10.1.0.3", 1, Ready)]);
    let less = record(Affinity::None, vec![backend("10.1.0.2", 1, Ready)]);
    let mut services = Services::default();
    services.apply(cluster(1), &name(), Some(&full));
    services.apply(cluster(1), &name(), Some(&less));
    let restarted = |remembered| {
        let mut restarted = Services::default();
        let (service, slot, backend) = (&services.service, &services.slot, &services.backend);
        restarted.adopt(service.entries(), slot.entries(), backend.entries(), remembered);
        restarted.apply(cluster(1), &name(), Some(&full));
        restarted.backend.entries().keys().map(BackendKey::id).collect::<Vec<_>>()
    };
    assert_eq!(restarted(0), [1, 2]);
    assert_eq!(restarted(2), [1, 3], "a socket may still know the second one");
}

#[test]
fn a_service_without_backends_stays_and_a_deleted_one_goes() {
    let mut services = Services::default();
    services.apply(cluster(1), &name(), Some(&record(Affinity::None, vec![])));
    assert_eq!(reachable(&services), Some(vec![]));
    services.apply(cluster(1), &name(), None);
    assert_eq!(reachable(&services), None);
    assert!(services.claims.is_empty() && services.placed.is_empty() && services.names.is_empty());
}

fn services() -> impl Strategy<Value = Vec<(u8, Option<ServiceRecord>)>> {
    use BackendState::{NotReady, Ready, Terminating};
    let state = prop::sample::select(vec![Ready, Terminating, NotReady]);
    let backend = (2u8..6, 1u16..3, state).prop_map(|(n, c, s)| backend(&format!("10.{c}.0.{n}"), c, s));
    let affinity = prop::sample::select(vec![Affinity::None, Affinity::Local, Affinity::Remote]);
    let record = (affinity, prop::collection::vec(backend, 0..5), 10u8..12).prop_map(|(a, b, ip)| {
        ServiceRecord { frontends: vec![format!("10.96.0.{ip}").parse().unwrap()], ..record(a, b) }
    });
    prop::collection::vec((0u8..3, prop::option::of(record)), 1..12)
}

proptest! {
    /// Writing the changes in the documented order, no reader ever finds a service with a slot that is not there,
    /// or a slot without its backend, or a backend of another service.
    #[test]
    fn readers_never_see_a_gap(changes in services()) {
        let mut services = Services::default();
        let (mut service, mut slot, mut backend) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (n, record) in changes {
            services.apply(cluster(1), &(cluster(1), "shop".into(), format!("s{n}")), record.as_ref());
            let (s, l, b) =
                (services.service.take_changed(), services.slot.take_changed(), services.backend.take_changed());
            let whole = |
                service: &BTreeMap<ServiceKey, ServiceValue>,
                slot: &BTreeMap<SlotKey, SlotValue>,
                backend: &BTreeMap<BackendKey, BackendValue>,
            | {
                let mut owners = BTreeMap::new();
                let is_owner = |(key, value): (&SlotKey, &SlotValue)| {
                    *owners.entry(value.backend()).or_insert(key.service()) == key.service()
                };
                service.values().all(|value| (0..value.count()).all(|n| {
                    slot.get(&SlotKey::new(value.id(), n))
                        .is_some_and(|slot| backend.contains_key(&BackendKey::new(slot.backend())))
                })) && slot.iter().all(is_owner)
            };
            macro_rules! write {
                ($table:ident, $keys:ident, $delete:expr) => {
                    for key in &$keys {
                        match services.$table.entries().get(key) {
                            Some(value) if !$delete => { $table.insert(*key, *value); }
                            None if $delete => { $table.remove(key); }
                            _ => {}
                        }
                        prop_assert!(whole(&service, &slot, &backend));
                    }
                };
            }
            write!(backend, b, false);
            write!(slot, l, false);
            write!(service, s, false);
            write!(service, s, true);
            write!(slot, l, true);
            write!(backend, b, true);
        }
        prop_assert_eq!(services.service.entries(), &service);
        prop_assert_eq!(services.slot.entries(), &slot);
        prop_assert_eq!(services.backend.entries(), &backend);
        prop_assert!(backend.keys().all(|key| slot.values().any(|slot| slot.backend() == key.id())));
    }
}
