use tombolo_model::{ClusterId, Requirement};

use super::*;

fn selector(value: &str) -> Selector {
    [Requirement::equals("pod:app", value)].into_iter().collect()
}

fn wanted(values: &[&str]) -> BTreeSet<Selector> {
    values.iter().map(|value| selector(value)).collect()
}

fn labels(value: &str) -> Labels {
    [("pod:app".to_owned(), value.to_owned())].into_iter().collect()
}

fn identities(values: &[&str]) -> BTreeMap<Identity, Labels> {
    let cluster = ClusterId::try_from(1).unwrap();
    let number = |i: usize| Identity::new(cluster, 256 + u32::try_from(i).unwrap()).unwrap();
    values.iter().enumerate().map(|(i, value)| (number(i), labels(value))).collect()
}

fn bit(bits: &SelectorBits, value: &str) -> u16 {
    match bits.state(&selector(value)) {
        BitState::Exact(bit) => bit,
        other => panic!("{value}: {other:?}"),
    }
}

#[test]
fn bits_stay_while_in_use() {
    let mut bits = SelectorBits::default();
    assert_eq!(bits.assign(&wanted(&["a", "b"]), &BTreeMap::new()), BTreeSet::from([1, 2]));
    assert_eq!((bit(&bits, "a"), bit(&bits, "b")), (1, 2));
    bits.assign(&wanted(&["b", "c"]), &BTreeMap::new());
    assert_eq!((bit(&bits, "b"), bit(&bits, "c")), (2, 3));
    assert!(bits.bitmap(&labels("b")).contains(2) && !bits.bitmap(&labels("b")).contains(3));
    assert!(bits.bitmap(&labels("x")).contains(ANY_PEER));
}

#[test]
fn a_bit_gets_a_new_meaning_only_after_two_settlements() {
    let mut bits = SelectorBits::with_capacity(2);
    bits.assign(&wanted(&["a"]), &BTreeMap::new());
    // POLICY may still mean "a" by bit 1, so "a" keeps it in IDENTITY and "b" must wait.
    bits.assign(&wanted(&["b"]), &identities(&["a", "b"]));
    assert_eq!(bits.state(&selector("b")), BitState::None);
    assert!(bits.has(1, &labels("a")));
    assert_eq!(bits.settle(), BTreeSet::from([1]));
    // Now nobody has it, but IDENTITY may not know that yet.
    assert!(!bits.has(1, &labels("a")));
    bits.assign(&wanted(&["b"]), &identities(&["a", "b"]));
    assert_eq!(bits.state(&selector("b")), BitState::None);
    assert!(bits.is_unsettled());
    bits.settle();
    bits.assign(&wanted(&["b"]), &identities(&["a", "b"]));
    assert_eq!(bit(&bits, "b"), 1);
    assert!(!bits.is_unsettled());
}

#[test]
fn a_selector_that_comes_back_finds_its_bit() {
    let mut bits = SelectorBits::default();
    bits.assign(&wanted(&["a", "b"]), &BTreeMap::new());
    bits.assign(&wanted(&["b"]), &BTreeMap::new());
    bits.assign(&wanted(&["a", "b"]), &BTreeMap::new());
    assert_eq!((bit(&bits, "a"), bit(&bits, "b")), (1, 2));
}

/// Matches what `selector` does, but is another one.
fn twin(value: &str) -> Selector {
    [Requirement::equals("pod:app", value), Requirement::DoesNotExist("pod:canary".into())]
        .into_iter()
        .collect()
}

#[test]
fn selectors_that_match_the_same_share_when_bits_run_out() {
    let mut bits = SelectorBits::with_capacity(3);
    let ids = identities(&["a", "b"]);
    let all: BTreeSet<_> = [selector("a"), selector("b"), twin("a")].into();
    for _ in 0..2 {
        bits.assign(&all, &ids);
        bits.settle();
        bits.settle();
    }
    assert_eq!(bits.state(&selector("a")), bits.state(&twin("a")));
    assert!(bits.has(bit(&bits, "a"), &labels("a")));
    // A pod on which they disagree has the bit of neither: closed, and reported.
    let mut canary = labels("a");
    canary.0.insert("pod:canary".into(), "yes".into());
    assert!(bits.disagree(&canary) && !bits.disagree(&labels("b")));
    assert!(!bits.has(bit(&bits, "a"), &canary));
    let mut more = ids.clone();
    more.insert(Identity::from_bits(9), canary.clone());
    bits.assign(&all, &more);
    assert!(matches!(bits.state(&selector("a")), BitState::Narrowed(_)));
    // With a bit to spare they part, and only after settling the old bit widens.
    bits.capacity = 4;
    bits.assign(&all, &more);
    let (a, t) = (bit(&bits, "a"), bits.state(&twin("a")));
    assert_ne!(t, BitState::Exact(a));
    assert!(!bits.has(a, &canary));
    assert!(bits.settle().contains(&a));
    assert!(bits.has(a, &canary));
}

#[test]
fn sharing_makes_room_for_others() {
    let mut bits = SelectorBits::with_capacity(3);
    let ids = identities(&["a", "b"]);
    bits.assign(&[selector("a"), twin("a")].into(), &ids);
    let all: BTreeSet<_> = [selector("a"), twin("a"), selector("b")].into();
    bits.assign(&all, &ids);
    assert_eq!(bits.state(&selector("b")), BitState::None);
    assert_eq!(bits.state(&selector("a")), bits.state(&twin("a")));
    bits.settle();
    bits.settle();
    bits.assign(&all, &ids);
    assert!(matches!(bits.state(&selector("b")), BitState::Exact(_)));
}

#[test]
fn state_round_trips_and_is_checked() {
    let mut bits = SelectorBits::default();
    bits.assign(&wanted(&["a", "b", "c"]), &BTreeMap::new());
    bits.assign(&wanted(&["b"]), &BTreeMap::new());
    let json = serde_json::to_string(&bits).unwrap();
    assert_eq!(serde_json::from_str::<SelectorBits>(&json).unwrap(), bits);
    let free = r#"{"users":[],"leaving":[]}"#;
    assert!(serde_json::from_str::<SelectorBits>(&format!("[[1,{free}],[1023,{free}]]")).is_ok());
    for numbers in [[0, 1], [1, 1024], [1, 1]] {
        let damaged = format!("[[{},{free}],[{},{free}]]", numbers[0], numbers[1]);
        let error = serde_json::from_str::<SelectorBits>(&damaged).unwrap_err().to_string();
        assert!(error.contains("out of range or given twice"), "{damaged}: {error}");
    }
}

#[test]
fn reserved_bits_wait_for_settlement() {
    let mut bits = SelectorBits::default();
    let mut used = Bitmap::ANY;
    used.set(1);
    bits.reserve(&used);
    bits.assign(&wanted(&["a"]), &BTreeMap::new());
    assert_eq!(bit(&bits, "a"), 2);
    bits.settle();
    bits.assign(&wanted(&["a", "b"]), &BTreeMap::new());
    assert_eq!(bit(&bits, "b"), 1);
}
