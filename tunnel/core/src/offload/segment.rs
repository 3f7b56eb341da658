//! Cutting super-packets (TSO, USO) into packets for the wire.

use super::{
    FLAG_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader, be16, be32, checksum,
    put16, put32,
};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// FIN and PSH belong to the last segment only, CWR to the first (RFC 3168, section 6.1.2).
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Calls `emit` with each wire packet of `packet`, checksums complete. `scratch` must hold the largest of
/// them. Returns `None`, with some packets perhaps emitted, when header and packet do not fit together.
pub fn segment(
    header: VnetHeader,
    packet: &mut [u8],
    scratch: &mut [u8],
    mut emit: impl FnMut(&[u8]),
) -> Option<()> {
    let kind = header.gso_type & !GSO_ECN;
    if kind == GSO_NONE {
        if header.flags & FLAG_NEEDS_CSUM != 0 {
            checksum::complete(packet, header.csum_start.into(), header.csum_offset.into())?;
        }
        emit(packet);
        return Some(());
    }
    let plan = Plan::new(header, kind, packet)?;
    let payload = packet.get(plan.headers..)?;
    let last = payload.len().div_ceil(plan.size).checked_sub(1)?;
    for (index, chunk) in payload.chunks(plan.size).enumerate() {
        let wire = scratch.get_mut(..plan.headers + chunk.len())?;
        wire.get_mut(..plan.headers)?.copy_from_slice(packet.get(..plan.headers)?);
        wire.get_mut(plan.headers..)?.copy_from_slice(chunk);
        plan.finish(wire, index, index == last)?;
        emit(wire);
    }
    Some(())
}

/// Where the headers are and how much payload goes into each segment.
struct Plan {
    v6: bool,
    protocol: u8,
    transport: usize,
    headers: usize,
    size: usize,
}

impl Plan {
    fn new(header: VnetHeader, kind: u8, packet: &[u8]) -> Option<Self> {
        let v6 = packet.first()? >> 4 == 6;
        let transport = usize::from(header.csum_start);
        let (protocol, headers) = match kind {
            GSO_TCPV4 | GSO_TCPV6 if v6 == (kind == GSO_TCPV6) => {
                let words = usize::from(packet.get(transport + 12)? >> 4);
                if words < 5 {
                    return None;
                }
                (TCP, transport + words * 4)
            }
            GSO_UDP_L4 => (UDP, transport + 8),
            _ => return None,
        };
        let size = usize::from(header.gso_size);
        // IPv6 may have extension headers in between.
        let after_ip = if v6 {
            transport >= 40
        } else {
            transport >= 20 && transport == usize::from(packet[0] & 15) * 4
        };
        let fits = after_ip && headers < packet.len() && size > 0;
        fits.then_some(Self { v6, protocol, transport, headers, size })
    }

    /// Turns a copy of the common headers into those of segment `index`.
    fn finish(&self, wire: &mut [u8], index: usize, last: bool) -> Option<()> {
        let total = u16::try_from(wire.len()).ok()?;
        if self.v6 {
            put16(wire, 4, total.checked_sub(40)?)?;
        } else {
            put16(wire, 2, total)?;
            let id = be16(wire, 4)?.wrapping_add(index as u16);
            put16(wire, 4, id)?;
            put16(wire, 10, 0)?;
            let header_len = usize::from(wire.first()? & 15) * 4;
            let value = !checksum::fold(checksum::sum(wire.get(..header_len)?, 0));
            put16(wire, 10, value)?;
        }
        let transport_len = wire.len().checked_sub(self.transport)?;
        let pseudo = checksum::pseudo_header(wire, self.protocol, transport_len)?;
        let field = if self.protocol == TCP {
            let sequence = be32(wire, self.transport + 4)?.wrapping_add((index * self.size) as u32);
            put32(wire, self.transport + 4, sequence)?;
            let flags = wire.get_mut(self.transport + 13)?;
            *flags &= !(if last { 0 } else { TCP_FIN_PSH } | if index == 0 { 0 } else { TCP_CWR });
            16
        } else {
            put16(wire, self.transport + 4, u16::try_from(transport_len).ok()?)?;
            6
        };
        put16(wire, self.transport + field, 0)?;
        let value = !checksum::fold(checksum::sum(wire.get(self.transport..)?, pseudo));
        // A UDP checksum of zero would mean none (RFC 768).
        put16(wire, self.transport + field, if value == 0 && self.protocol == UDP { 0xffff } else { value })
    }
}
