//! How the datapath reads a packet, beside how the books read it.

use tombolo_abi::{DropReason, Hook, protocol};
use tombolo_datapath::{Fragment, Headers, Transport};

use super::{
    super::drive::Case,
    Reference,
    read::{self, Ends, Kind, Parsed, Part},
};

impl Reference {
    /// Compares how a packet was read, and notes fragments; none when no hook sees it.
    pub fn classified(
        &mut self,
        case: &Case,
        headers: &Headers,
        classified: Result<bool, DropReason>,
    ) -> Option<Parsed> {
        let mut packet = match read::read(&case.bytes, case.hook == Hook::MeshIngress) {
            Ok(Some(packet)) => packet,
            Ok(None) => {
                assert_eq!(classified, Ok(false), "it is no IP packet");
                return None;
            }
            Err(read::Unreadable) => {
                let reason = classified.expect_err("it cannot be read");
                assert!(matches!(reason, DropReason::Truncated | DropReason::UnknownProtocol), "{reason:?}");
                return None;
            }
        };
        let ends = packet.ends;
        let datagram = (ends.from.0, ends.to.0, packet.id, ends.protocol);
        match packet.part {
            Part::Whole => {}
            Part::First => {
                self.fragments.insert(datagram, (ends.from.1, ends.to.1));
            }
            Part::Later => {
                let Some((from, to)) = self.fragments.get(&datagram) else {
                    assert_eq!(classified, Err(DropReason::Fragment), "its first fragment is not known");
                    return None;
                };
                (packet.ends.from.1, packet.ends.to.1) = (*from, *to);
                packet.place.kind = match ends.protocol {
                    protocol::TCP | protocol::UDP | protocol::SCTP => Kind::Ports,
                    protocol::ICMP | protocol::ICMPV6 => Kind::Echo,
                    _ => Kind::Other,
                };
            }
        }
        assert_eq!(classified, Ok(true), "{packet:?}");
        compare(&packet, headers);
        Some(packet)
    }
}

impl Ends {
    /// As the datapath has them.
    pub fn of(headers: &Headers) -> Self {
        let t = &headers.tuple;
        let (from, to) = ((t.source, t.source_port), (t.destination, t.destination_port));
        Self { from, to, protocol: t.protocol }
    }
}

fn compare(packet: &Parsed, headers: &Headers) {
    assert_eq!(Ends::of(headers), packet.ends);
    assert_eq!(headers.sender, packet.sender);
    assert_eq!((headers.is_v6(), headers.protocol), (packet.v6, packet.protocol));
    assert_eq!(headers.is_error(), packet.is_error());
    let part = match packet.part {
        Part::Whole => Fragment::Whole,
        Part::First => Fragment::First,
        Part::Later => Fragment::Later,
    };
    assert_eq!(headers.fragment, part);
    let transport = if packet.is_error() { headers.inner_transport } else { headers.transport };
    let kind = match packet.kind() {
        Kind::Ports => Transport::Ports,
        Kind::Echo => Transport::Echo,
        Kind::Other => Transport::Other,
    };
    assert_eq!(transport, kind);
    let flags = if packet.part == Part::Later { 0 } else { packet.tcp_flags };
    assert_eq!(headers.tcp_flags, flags);
    if packet.part != Part::Later {
        assert_eq!(usize::from(headers.l3), packet.place.ip);
        assert_eq!(usize::from(headers.l4), packet.place.transport);
    }
}
