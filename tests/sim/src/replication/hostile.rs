//! What a member with valid credentials may try.

use std::collections::BTreeMap;

use rand::{Rng, RngCore, rngs::StdRng, seq::IteratorRandom};
use tombolo_mesh_core::{
    replication::{Change, Position, Scope},
    wire::{Frame, encode_change, encode_frame, encode_transaction},
};
use tombolo_model::{ClusterId, Record};

use super::origin::Origin;

/// A frame of `liar` about somebody else, or one that makes no sense.
pub(super) fn frame(random: &mut StdRng, liar: &Origin, all: &BTreeMap<ClusterId, Origin>) -> Vec<u8> {
    let Some(victim) = all.values().filter(|origin| !origin.hostile).choose(random) else {
        return Vec::new();
    };
    let position = Position { epoch: random.next_u64(), revision: random.next_u64() };
    let frame = match random.random_range(0..8) {
        0..4 => return transaction(random, liar, victim),
        4 => Frame::Withdraw(Some(lie(random, liar, victim))),
        5 => Frame::Begin { position, snapshot: true },
        6 => Frame::Obsolete(vec![random.next_u64(); 3]),
        _ => Frame::Watermark { position, scope: Scope::AllBut([].into()) },
    };
    if random.random_bool(0.1) {
        let mut garbage = vec![0; random.random_range(0..200)];
        random.fill_bytes(&mut garbage);
        return garbage;
    }
    encode_frame(&frame).map(|bytes| bytes.to_vec()).unwrap_or_default()
}

/// The next transaction, with lies in it. A part of a snapshot fits at most moments.
fn transaction(random: &mut StdRng, liar: &Origin, victim: &Origin) -> Vec<u8> {
    let changes = (0..3).filter_map(|_| encode_change(&lie(random, liar, victim)).ok()).collect();
    let revision = if random.random_bool(0.5) { 0 } else { liar.exporter.peers().position().revision + 1 };
    encode_transaction(revision, 0, false, changes).to_vec()
}

fn lie(random: &mut StdRng, liar: &Origin, victim: &Origin) -> Change {
    let (pod, version) = (random.random_range(0..16), random.random_range(0..4));
    match random.random_range(0..7) {
        // In the victim's name.
        0 => victim.endpoint(pod, version + 4).into(),
        1 => victim.identity(pod, version + 4).into(),
        2 => Change::Remove(victim.endpoint(pod, version).key()),
        3 => victim.service(pod % 3, &[pod + 100], true).into(),
        // In its own name, with what belongs to the victim.
        4 => match (liar.endpoint(pod, version), victim.endpoint(pod, version)) {
            (Record::Endpoint(mut own), Record::Endpoint(theirs)) => {
                own.addresses = theirs.addresses;
                Record::Endpoint(own).into()
            }
            (own, _) => own.into(),
        },
        5 => match (liar.endpoint(pod, version), victim.endpoint(pod, version)) {
            (Record::Endpoint(mut own), Record::Endpoint(theirs)) => {
                own.identity = theirs.identity;
                Record::Endpoint(own).into()
            }
            (own, _) => own.into(),
        },
        _ => match (liar.service(pod % 3, &[pod], true), victim.service(pod % 3, &[pod + 100], true)) {
            (Record::Service(mut own), Record::Service(theirs)) => {
                own.ports = theirs.ports;
                Record::Service(own).into()
            }
            (own, _) => own.into(),
        },
    }
}
