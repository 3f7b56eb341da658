//! What kind of device it is, over rtnetlink(7). The numbers are those of include/uapi/linux/if_arp.h and rtnetlink.h.

use std::io;

use crate::netlink::{self, message};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;

const ARPHRD_PPP: u16 = 512;
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_TUNNEL: u16 = 768;
const ARPHRD_TUNNEL6: u16 = 769;
const ARPHRD_SIT: u16 = 776;
const ARPHRD_IPGRE: u16 = 778;
const ARPHRD_IP6GRE: u16 = 823;
const ARPHRD_VOID: u16 = 0xffff;
const ARPHRD_NONE: u16 = 0xfffe;

/// Whether packets of the device, of the caller's network namespace, begin with the IP header.
pub fn is_raw(ifindex: u32) -> io::Result<bool> {
    // `struct ifinfomsg`: family, type of device, index, flags and which of them change.
    let question = [0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
    let device: [u8; 16] = netlink::send(&message(RTM_GETLINK, 0, &question, &[]))?.message(RTM_NEWLINK)?;
    Ok(is_raw_type(u16::from_ne_bytes([device[2], device[3]])))
}

/// As the kernel sees it (`dev_is_mac_header_xmit`): it adds the header of PPP itself.
const fn is_raw_type(hardware: u16) -> bool {
    matches!(
        hardware,
        ARPHRD_TUNNEL
            | ARPHRD_TUNNEL6
            | ARPHRD_SIT
            | ARPHRD_IPGRE
            | ARPHRD_IP6GRE
            | ARPHRD_VOID
            | ARPHRD_NONE
            | ARPHRD_RAWIP
            | ARPHRD_PPP
    )
}
