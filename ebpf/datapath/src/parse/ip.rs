//! IP headers: RFC 791 and RFC 8200.

use tombolo_abi::{DropReason, is_v4_mapped, v4_mapped};

use super::{Fragment, Headers};
use crate::Packet;

/// Bytes of an IPv6 header.
const V6_LEN: usize = 40;
/// Extension headers followed before a packet is refused.
const MAX_EXTENSIONS: usize = 4;

/// Reads the IPv4 header at `headers.l3`.
#[inline(never)]
pub fn v4<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    let l3 = usize::from(headers.l3);
    let b = packet.load::<20>(l3).ok_or(DropReason::Truncated)?;
    let header_len = u16::from(b[0] & 15) * 4;
    if b[0] >> 4 != 4 || header_len < 20 {
        return Err(DropReason::UnknownProtocol);
    }
    headers.l4 = headers.l3 + header_len;
    headers.tuple.source = v4_mapped([b[12], b[13], b[14], b[15]]);
    headers.tuple.destination = v4_mapped([b[16], b[17], b[18], b[19]]);
    headers.tuple.protocol = b[9];
    headers.protocol = b[9];
    headers.fragment_id = u32::from(u16::from_be_bytes([b[4], b[5]]));
    let fragment = u16::from_be_bytes([b[6], b[7]]);
    headers.fragment = part(fragment & 0x1fff != 0, fragment & 0x2000 != 0);
    Ok(())
}

/// Reads the IPv6 header at `headers.l3` and its extension headers.
#[inline(never)]
pub fn v6<P: Packet>(packet: &P, headers: &mut Headers) -> Result<(), DropReason> {
    let l3 = usize::from(headers.l3);
    let version = packet.load::<1>(l3).ok_or(DropReason::Truncated)?[0];
    if version >> 4 != 6 {
        return Err(DropReason::UnknownProtocol);
    }
    headers.tuple.source = packet.load::<16>(l3 + 8).ok_or(DropReason::Truncated)?;
    headers.tuple.destination = packet.load::<16>(l3 + 24).ok_or(DropReason::Truncated)?;
    // In the maps they would be addresses of IPv4, and no host sends them.
    if is_v4_mapped(&headers.tuple.source) || is_v4_mapped(&headers.tuple.destination) {
        return Err(DropReason::UnknownProtocol);
    }
    let mut next = packet.load::<1>(l3 + 6).ok_or(DropReason::Truncated)?[0];
    let mut l4 = l3 + V6_LEN;
    let mut i = 0;
    while i < MAX_EXTENSIONS {
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let b = packet.load::<2>(l4).ok_or(DropReason::Truncated)?;
                next = b[0];
                l4 += (usize::from(b[1]) + 1) * 8;
            }
            // Fragment.
            44 => {
                let b = packet.load::<8>(l4).ok_or(DropReason::Truncated)?;
                next = b[0];
                l4 += 8;
                let field = u16::from_be_bytes([b[2], b[3]]);
                headers.fragment = part(field & !7 != 0, field & 1 != 0);
                headers.fragment_id = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
            }
            // Authentication.
            51 => {
                let b = packet.load::<2>(l4).ok_or(DropReason::Truncated)?;
                next = b[0];
                l4 += (usize::from(b[1]) + 2) * 4;
            }
            _ => break,
        }
        if headers.fragment == Fragment::Later {
            break;
        }
        i += 1;
    }
    if matches!(next, 0 | 43 | 44 | 51 | 60) && headers.fragment != Fragment::Later {
        return Err(DropReason::UnknownProtocol);
    }
    headers.l4 = l4 as u16;
    headers.tuple.protocol = next;
    headers.protocol = next;
    Ok(())
}

#[inline(always)]
const fn part(has_offset: bool, more_follow: bool) -> Fragment {
    match (has_offset, more_follow) {
        (true, _) => Fragment::Later,
        (false, true) => Fragment::First,
        (false, false) => Fragment::Whole,
    }
}
