//! Packets between a TUN device and the tunnel, with any header that a device can put before them: what is cut for the
//! wire keeps every byte of the payload and has right checksums; what is joined for the kernel can be cut again into the
//! packets that it was joined from.

mod build;
mod cut;

use tombolo_tunnel_core::{
    RxBatch,
    offload::{
        VnetHeader,
        coalesce::{Coalescer, Group},
    },
};

use crate::{input::Input, sums};
use build::{damage, super_packet};
use cut::cut;

/// Packets of one batch.
const BATCH: usize = 64;

/// Takes any bytes.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    match input.byte() % 3 {
        0 => {
            let header = input.array();
            cut(header, input.bytes(usize::MAX));
        }
        1 => {
            let (mut header, mut packet) = super_packet(&mut input);
            if input.flag() {
                damage(&mut input, &mut header);
                damage(&mut input, &mut packet);
            } else {
                assert!(cut(header, &packet).is_some(), "the kernel's own packet is refused");
            }
            cut(header, &packet);
        }
        _ => join(&mut input),
    }
}

/// Packets of two streams, in any order, some of them damaged.
fn join(input: &mut Input<'_>) {
    let streams = [super_packet(input), super_packet(input)];
    let known: Vec<Vec<u8>> =
        streams.iter().flat_map(|(header, packet)| cut(*header, packet).unwrap_or_default()).collect();
    let mut batch = RxBatch::new(1 << 20);
    for (next, packet) in known.iter().enumerate() {
        if batch.len() == BATCH {
            break;
        }
        match if input.is_empty() { 0 } else { input.byte() } {
            0..128 => batch.push(packet),
            other @ 128..192 => batch.push(&known[usize::from(other) % known.len()]),
            192..224 => {
                let mut packet = known[next].clone();
                damage(input, &mut packet);
                batch.push(&packet)
            }
            _ => continue,
        };
    }
    let mut coalescer = Coalescer::default();
    let groups = coalescer.join(&batch);
    let order: Vec<Vec<usize>> = groups.iter().map(|group| members(group, &batch)).collect();
    let mut all: Vec<usize> = order.concat();
    assert!(in_order(&all, &batch), "packets of a stream overtake each other: {order:?}");
    all.sort_unstable();
    assert!(all.into_iter().eq(0..batch.len()), "each packet once: {order:?}");
    for (group, members) in groups.iter().zip(&order) {
        check(group, members, &batch);
    }
}

/// Which packets of the batch the parts of a group are.
fn members(group: &Group, batch: &RxBatch) -> Vec<usize> {
    let index_of = |part: &[u8]| {
        let holds = |at: &usize| batch.packet(*at).as_ptr_range().contains(&part.as_ptr());
        (0..batch.len()).find(holds).expect("a part of a packet of the batch")
    };
    group.parts(batch).map(index_of).collect()
}

/// Whether packets with equal protocol, addresses and ports come in the order of the batch.
fn in_order(order: &[usize], batch: &RxBatch) -> bool {
    let stream = |at: usize| {
        let packet = batch.packet(at);
        let (protocol, ends) = if packet[0] >> 4 == 6 { (6, 8..44) } else { (9, 12..24) };
        (packet[0] >> 4, packet.get(protocol).copied(), packet.get(ends).map(<[u8]>::to_vec))
    };
    let overtakes = |(place, at): (usize, &usize)| {
        order[place + 1..].iter().any(|later| later < at && stream(*later) == stream(*at))
    };
    !order.iter().enumerate().any(overtakes)
}

fn check(group: &Group, members: &[usize], batch: &RxBatch) {
    let whole =
        group.parts(batch).fold(group.head().to_vec(), |whole, part| [whole.as_slice(), part].concat());
    if members.len() == 1 {
        assert_eq!((group.vnet, whole.as_slice()), (VnetHeader::default(), batch.packet(members[0])));
        return;
    }
    assert!(whole.len() <= 65_535, "larger than an IP packet can be: {}", whole.len());
    let v6 = whole[0] >> 4 == 6;
    let transport = if v6 { 40 } else { 20 };
    assert!(v6 || sums::sum(&whole[..20]) == 0, "the checksum of the IPv4 header");
    let pseudo = sums::sum(&sums::pseudo_header(&whole, 6, whole.len() - transport));
    assert_eq!(sums::sum(&whole[transport + 16..transport + 18]), pseudo, "what the device is to complete");
    let again = cut(group.vnet.to_bytes(), &whole).expect("what was joined can be cut");
    assert_eq!(again.len(), members.len());
    for (again, member) in again.into_iter().zip(members) {
        let comparable = |mut packet: Vec<u8>| {
            // The kernel numbers IPv4 packets anew, and one's complement has two zeros.
            let fields: &[usize] = if v6 { &[56] } else { &[4, 10, 36] };
            fields.iter().for_each(|at| packet[*at..*at + 2].fill(0));
            packet
        };
        assert_eq!(comparable(again), comparable(batch.packet(*member).to_vec()));
    }
}
