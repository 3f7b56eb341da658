//! A peer with valid credentials that says anything at all: nothing outside of its containment is ever held, and never
//! more than the limits allow.

use tombolo_mesh_core::{
    replication::{Admission, Containment, Limits, Log, Receiver, Sender},
    wire::{Frame, decode_frame},
};
use tombolo_model::Record;

const RECORDS: usize = 64;

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    let containment = Containment {
        cluster: 2u16.try_into().expect("an id"),
        name: "west".parse().expect("a name"),
        node_prefixes: vec!["172.16.2.0/24".parse().expect("a prefix")],
        pod_prefixes: vec!["10.2.0.0/16".parse().expect("a prefix")],
    };
    let admission = Admission::Peer(containment);
    let limits = Limits { records: RECORDS, bytes: 64 << 10 };
    let mut receiver = Receiver::new(admission.clone(), limits);
    let (log, mut sender) = (Log::new(1, 8), Sender::default());
    receiver.subscribe();
    let mut rest = bytes;
    // Frames with a length of two bytes each.
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (frame, after) = after.split_at(after.len().min(u16::from_be_bytes(*length).into()));
        rest = after;
        match decode_frame(frame) {
            Ok(Frame::Subscribe(subscription)) => sender.subscribe(&log, subscription),
            Ok(Frame::Want(wanted)) => sender.want(&log, wanted),
            Ok(frame) => {
                if receiver.handle(frame).is_err() {
                    // The session ends.
                    return;
                }
                receiver.take_reply();
            }
            Err(_) => return,
        }
        while sender.poll(&log).is_some() {}
        assert!(receiver.records().len() <= RECORDS);
        for (key, record) in receiver.records() {
            assert_eq!(*key, record.key());
            assert!(admission.record(record).is_ok() && !matches!(&**record, Record::Policy(_)));
        }
    }
}
