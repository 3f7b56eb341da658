use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const REST: Duration = Duration::from_secs(30);

fn owner(n: usize) -> AttachmentId {
    AttachmentId { container: format!("c{n}"), interface: "eth0".to_owned() }
}

fn ipam(prefixes: &[&str]) -> Ipam {
    let prefixes: Vec<Prefix> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
    Ipam::new(&prefixes, REST).unwrap()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn addr(s: &str) -> Address {
    s.parse().unwrap()
}

#[test]
fn first_usable_addresses_of_both_families() {
    let mut ipam = ipam(&["10.1.0.0/24", "fd00:1::/64"]);
    assert_eq!(ipam.allocate(&owner(1), at(0)).unwrap(), [addr("10.1.0.2"), addr("fd00:1::2")]);
    assert_eq!(ipam.allocate(&owner(1), at(0)).unwrap(), [addr("10.1.0.2"), addr("fd00:1::2")]);
    assert_eq!(ipam.allocate(&owner(2), at(0)).unwrap(), [addr("10.1.0.3"), addr("fd00:1::3")]);
    assert_eq!(ipam.owner(addr("10.1.0.3")), Some(&owner(2)));
}

#[test]
fn exhaustion_names_prefix_and_size_and_keeps_nothing() {
    let mut ipam = ipam(&["10.1.0.0/29", "fd00:1::/126"]);
    for n in 0..2 {
        ipam.allocate(&owner(n), at(0)).unwrap();
    }
    let error = ipam.allocate(&owner(9), at(0)).unwrap_err();
    let prefix = "fd00:1::/126".parse().unwrap();
    assert_eq!(error, AllocateError::Exhausted { prefix, size: 2, in_use: 2, resting: 0 });
    assert!(error.to_string().contains("2 of 2 are in use"), "{error}");
    // The IPv4 address taken on the way is free again.
    assert_eq!(ipam.usage().map(|(_, size, taken)| (size, taken)).collect::<Vec<_>>(), [(5, 2), (2, 2)]);
}

#[test]
fn released_addresses_rest() {
    let mut ipam = ipam(&["10.1.0.0/30"]);
    assert_eq!(ipam.allocate(&owner(1), at(0)).unwrap(), [addr("10.1.0.2")]);
    assert_eq!(ipam.release(&owner(1), at(10)), [addr("10.1.0.2")]);
    assert_eq!(ipam.release(&owner(1), at(10)), []);
    let error = ipam.allocate(&owner(2), at(39)).unwrap_err();
    assert!(matches!(error, AllocateError::Exhausted { resting: 1, in_use: 0, .. }), "{error}");
    assert_eq!(
        ipam.allocate_specific(&owner(2), addr("10.1.0.2"), at(39)),
        Err(AllocateError::Resting(addr("10.1.0.2"), at(1)))
    );
    assert_eq!(ipam.allocate(&owner(2), at(40)).unwrap(), [addr("10.1.0.2")]);
}

#[test]
fn the_addresses_of_all_families_come_back() {
    let mut ipam = ipam(&["10.1.0.0/30", "fd00:1::/126"]);
    // Each life takes the only IPv4 address and one of the two of IPv6.
    for life in 0..4 {
        let begin = 40 * life;
        assert_eq!(
            ipam.allocate(&owner(1), at(begin)).map(|addresses| addresses.len()),
            Ok(2),
            "life {life}"
        );
        assert_eq!(ipam.release(&owner(1), at(begin + 10)).len(), 2);
    }
}

#[test]
fn an_address_comes_back_after_all_others() {
    let mut ipam = ipam(&["10.1.0.0/29"]);
    let first = ipam.allocate(&owner(1), at(0)).unwrap();
    ipam.release(&owner(1), at(0));
    let later: Vec<_> = (2..=6).map(|n| ipam.allocate(&owner(n), at(60)).unwrap()[0]).collect();
    assert_eq!(later, ["10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2"].map(addr));
    assert_eq!(later[4], first[0]);
}

#[test]
fn specific_addresses_are_checked() {
    let mut ipam = ipam(&["10.1.0.0/24"]);
    ipam.allocate_specific(&owner(1), addr("10.1.0.9"), at(0)).unwrap();
    ipam.allocate_specific(&owner(1), addr("10.1.0.9"), at(0)).unwrap();
    assert_eq!(
        ipam.allocate_specific(&owner(2), addr("10.1.0.9"), at(0)),
        Err(AllocateError::InUse(addr("10.1.0.9"), owner(1)))
    );
    for outside in ["10.1.0.0", "10.1.0.1", "10.1.0.255", "10.1.1.2", "fd00::2"] {
        let address = addr(outside);
        assert_eq!(
            ipam.allocate_specific(&owner(2), address, at(0)),
            Err(AllocateError::Outside(address)),
            "{outside}"
        );
    }
}

#[test]
fn restored_addresses_are_never_handed_out() {
    let mut ipam = ipam(&["10.1.0.0/24"]);
    ipam.restore(&owner(1), &[addr("10.1.0.2"), addr("10.9.0.2")]).unwrap();
    assert_eq!(
        ipam.restore(&owner(2), &[addr("10.1.0.2")]),
        Err(RestoreError { address: addr("10.1.0.2"), first: owner(1), second: owner(2) })
    );
    assert_eq!(ipam.allocate(&owner(1), at(0)).unwrap(), [addr("10.1.0.2"), addr("10.9.0.2")]);
    assert_eq!(ipam.allocate(&owner(2), at(0)).unwrap(), [addr("10.1.0.3")]);
    assert_eq!(ipam.release(&owner(1), at(0)).len(), 2);
}

#[test]
fn prefixes_are_checked() {
    let parse = |list: &[&str]| list.iter().map(|p| p.parse().unwrap()).collect::<Vec<Prefix>>();
    for small in ["10.0.0.0/31", "10.0.0.1/32", "fd00::/127"] {
        let prefixes = parse(&[small]);
        assert_eq!(Ipam::new(&prefixes, REST).unwrap_err(), PrefixError::TooSmall(prefixes[0]));
    }
    let prefixes = parse(&["10.0.0.0/16", "10.0.3.0/24"]);
    assert_eq!(Ipam::new(&prefixes, REST).unwrap_err(), PrefixError::Overlap(prefixes[0], prefixes[1]));
    let mut none = Ipam::new(&[], REST).unwrap();
    assert_eq!(none.allocate(&owner(1), at(0)), Err(AllocateError::NoPrefix));
}

#[test]
fn large_prefixes_are_capped() {
    for prefix in ["10.0.0.0/8", "fd00::/64", "::/0"] {
        assert_eq!(
            ipam(&[prefix]).usage().map(|(_, size, _)| size).collect::<Vec<_>>(),
            [65_534],
            "{prefix}"
        );
    }
    assert_eq!(ipam(&["10.0.0.0/16"]).usage().map(|(_, size, _)| size).collect::<Vec<_>>(), [65_533]);
}

#[derive(Clone, Debug)]
enum Op {
    Allocate(usize),
    Specific(usize, u8),
    Release(usize),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0usize..20).prop_map(Op::Allocate),
        1 => (0usize..20, 0u8..18).prop_map(|(o, a)| Op::Specific(o, a)),
        3 => (0usize..20).prop_map(Op::Release),
        2 => (0u64..40).prop_map(Op::Wait),
    ]
}

/// What the allocator promises, kept the slow way.
#[derive(Default)]
struct Model {
    owners: BTreeMap<usize, BTreeSet<Address>>,
    resting: BTreeMap<Address, u64>,
}

impl Model {
    fn is_free(&self, address: Address, now: u64) -> bool {
        !self.owners.values().any(|held| held.contains(&address))
            && self.resting.get(&address).is_none_or(|until| *until <= now)
    }
}

proptest! {
    #[test]
    fn agrees_with_the_model(ops in prop::collection::vec(op(), 1..200)) {
        let mut ipam = ipam(&["10.1.0.0/28"]);
        let assignable: Vec<Address> = (2..15).map(|n| addr(&format!("10.1.0.{n}"))).collect();
        let (mut model, mut now) = (Model::default(), 0);
        for op in ops {
            match op {
                Op::Allocate(o) => match ipam.allocate(&owner(o), at(now)) {
                    Ok(addresses) => {
                        let got: BTreeSet<_> = addresses.into_iter().collect();
                        if let Some(held) = model.owners.get(&o) {
                            prop_assert_eq!(held, &got);
                        } else {
                            prop_assert_eq!(got.len(), 1);
                            prop_assert!(got.iter().all(|a| assignable.contains(a) && model.is_free(*a, now)));
                            model.owners.insert(o, got);
                        }
                    }
                    Err(_) => {
                        prop_assert!(!model.owners.contains_key(&o));
                        prop_assert!(!assignable.iter().any(|a| model.is_free(*a, now)));
                    }
                },
                Op::Specific(o, n) => {
                    let address = addr(&format!("10.1.0.{n}"));
                    let held = model.owners.get(&o).is_some_and(|held| held.contains(&address));
                    let possible = held || assignable.contains(&address) && model.is_free(address, now);
                    prop_assert_eq!(ipam.allocate_specific(&owner(o), address, at(now)).is_ok(), possible);
                    if possible {
                        model.owners.entry(o).or_default().insert(address);
                    }
                }
                Op::Release(o) => {
                    let released: BTreeSet<_> = ipam.release(&owner(o), at(now)).into_iter().collect();
                    let expected = model.owners.remove(&o).unwrap_or_default();
                    model.resting.extend(expected.iter().map(|a| (*a, now + 30)));
                    prop_assert_eq!(released, expected);
                }
                Op::Wait(seconds) => now += seconds,
            }
        }
        // A restart that knows the owners continues where this one ended.
        let mut restarted = super::tests::ipam(&["10.1.0.0/28"]);
        for (owner, addresses) in ipam.owners() {
            restarted.restore(owner, addresses).unwrap();
        }
        prop_assert!(restarted.owners().eq(ipam.owners()));
    }
}
