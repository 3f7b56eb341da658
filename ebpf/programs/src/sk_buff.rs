//! A packet in a tc program: headers are read where they lie, and written through helpers, which keep clones and
//! checksums of the device in order.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, bpf_adj_room_mode,
        bpf_sock_tuple,
    },
    helpers::{
        bpf_check_mtu, bpf_fib_lookup, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_sk_lookup_udp,
        bpf_sk_release, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_store_bytes,
        bpf_skc_lookup_tcp,
    },
};
use tombolo_abi::{Address, protocol};
use tombolo_datapath::{Link, Packet, Tables, Tuple};

use crate::Maps;

/// Headers lie in the first bytes; the longest are those of an ICMP error.
const HEADERS: u32 = 192;
/// Nothing that is read begins behind this offset; the verifier wants a bound.
const OFFSET_MASK: usize = 0x7ff;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const FIB_SUCCESS: i64 = 0;
const FIB_NO_NEIGHBOUR: i64 = 7;
const MTU_CHECK_SEGMENTS: u64 = 1;
/// `BPF_F_CURRENT_NETNS`: the namespace of the packet's device.
const CURRENT_NAMESPACE: u64 = u64::MAX;

/// `struct bpf_fib_lookup` (include/uapi/linux/bpf.h).
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Fib {
    family: u8,
    l4_protocol: u8,
    source_port: u16,
    destination_port: u16,
    total_len: u16,
    ifindex: u32,
    traffic_class: u32,
    source: Address,
    destination: Address,
    vlan: u32,
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
}

/// `struct bpf_redir_neigh`.
#[repr(C)]
struct NextHop {
    family: u32,
    address: Address,
}

/// `struct bpf_sock_tuple` of IPv4; ports in network order.
#[repr(C)]
struct SocketsV4 {
    source: [u8; 4],
    destination: [u8; 4],
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

/// The same of IPv6.
#[repr(C)]
struct SocketsV6 {
    source: Address,
    destination: Address,
    source_port: [u8; 2],
    destination_port: [u8; 2],
}

const _: () = assert!(size_of::<SocketsV4>() == 12);
const _: () = assert!(size_of::<SocketsV6>() == 36);
const _: () = assert!(size_of::<Fib>() == 64);
const _: () = assert!(size_of::<NextHop>() == 20);

/// The packet of a tc program.
pub struct SkBuff<'a> {
    skb: *mut __sk_buff,
    link: Link,
    fib: &'a mut Fib,
}

impl<'a> SkBuff<'a> {
    /// Takes the packet of the program, beginning with `link`; `fib` is room for a route.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff, link: Link, fib: &'a mut Fib) -> Self {
        let packet = Self { skb, link, fib };
        let len = packet.len();
        let wanted = if len < HEADERS { len } else { HEADERS };
        if packet.data() + wanted as usize > packet.data_end() {
            // SAFETY: the context of the program. When it fails, reading the headers does too.
            unsafe { bpf_skb_pull_data(skb, wanted) };
        }
        packet
    }

    /// The context of the program.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Index of the device that the program runs on.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context of the program.
        unsafe { (*self.skb).ifindex }
    }

    /// Sends the packet to the next hop that was found.
    #[inline(always)]
    pub fn redirect_to_next_hop(&mut self) -> i32 {
        let mut hop = NextHop { family: u32::from(self.fib.family), address: self.fib.destination };
        // SAFETY: the helper reads the struct before it returns.
        unsafe {
            bpf_redirect_neigh(self.fib.ifindex, (&raw mut hop).cast(), size_of::<NextHop>() as i32, 0) as i32
        }
    }

    #[inline(always)]
    fn store_with<const N: usize>(&mut self, offset: usize, bytes: [u8; N], flags: u64) -> Option<()> {
        let from = bytes.as_ptr().cast::<c_void>();
        // SAFETY: the helper reads N bytes of the array and checks the offset.
        (unsafe { bpf_skb_store_bytes(self.skb, offset as u32, from, N as u32, flags) } == 0).then_some(())
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context of the program.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context of the program.
        unsafe { (*self.skb).data_end as usize }
    }
}

impl Packet for SkBuff<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context of the program.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let mut start = self.data();
        // SAFETY: an addition. Left to itself the compiler computes the address once for the check and again for the
        // access, and the verifier does not know that the second is the first.
        unsafe {
            asm!("{0} += {1}", inout(reg) start, in(reg) offset & OFFSET_MASK, options(nomem, nostack, pure));
        }
        if offset > OFFSET_MASK || start + N > self.data_end() {
            return None;
        }
        // SAFETY: all N bytes lie before the end.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.store_with(offset, bytes, 0)
    }

    /// A device with CHECKSUM_COMPLETE has summed up all from the IP header on, and the kernel takes the IPv6 header of the
    /// end out of that sum before it compares. Where a change is missing it does not drop the packet, but sums it up once more
    /// and logs "hw csum failure". No device of a test does that, so its rules stand in
    /// `testing/summed.rs` of the datapath.
    #[inline(always)]
    fn store_summed<const N: usize>(&mut self, offset: usize, bytes: [u8; N]) -> Option<()> {
        self.store_with(offset, bytes, u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    #[inline(always)]
    fn add_checksum(
        &mut self,
        offset: usize,
        difference: u32,
        pseudo: bool,
        zero_is_none: bool,
    ) -> Option<()> {
        let mut flags = 0;
        if pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if zero_is_none {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        // SAFETY: the helper checks the offset.
        let added =
            unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(difference), flags) == 0 };
        added.then_some(())
    }

    #[inline(never)]
    fn route(&mut self, tuple: &Tuple, v6: bool) -> bool {
        let (s, d) = (&tuple.source, &tuple.destination);
        let (source, destination) = if v6 { (*s, *d) } else { (v4_first(s), v4_first(d)) };
        *self.fib = Fib {
            family: if v6 { AF_INET6 } else { AF_INET },
            l4_protocol: 0,
            source_port: 0,
            destination_port: 0,
            total_len: 0,
            ifindex: self.ifindex(),
            traffic_class: 0,
            source,
            destination,
            vlan: 0,
            source_mac: [0; 6],
            destination_mac: [0; 6],
        };
        let fib = (&raw mut *self.fib).cast();
        // SAFETY: the helper reads and writes the struct, whose size it is told.
        let result = unsafe { bpf_fib_lookup(self.skb.cast(), fib, size_of::<Fib>() as i32, 0) } as i64;
        let found = result == FIB_SUCCESS || result == FIB_NO_NEIGHBOUR;
        let into_tunnel = Maps.config().is_some_and(|config| config.tunnel_ifindex() == self.fib.ifindex);
        found && !into_tunnel
    }

    #[inline(never)]
    fn has_socket(&mut self, tuple: &Tuple, v6: bool) -> bool {
        let (s, d) = (&tuple.source, &tuple.destination);
        let (source_port, destination_port) =
            (tuple.source_port.to_be_bytes(), tuple.destination_port.to_be_bytes());
        if v6 {
            let mut ends = SocketsV6 { source: *s, destination: *d, source_port, destination_port };
            return has_socket(
                self.skb,
                (&raw mut ends).cast(),
                size_of::<SocketsV6>() as u32,
                tuple.protocol,
            );
        }
        let mut ends = SocketsV4 {
            source: [s[12], s[13], s[14], s[15]],
            destination: [d[12], d[13], d[14], d[15]],
            source_port,
            destination_port,
        };
        has_socket(self.skb, (&raw mut ends).cast(), size_of::<SocketsV4>() as u32, tuple.protocol)
    }

    #[inline(always)]
    fn set_len(&mut self, len: usize) -> Option<()> {
        // SAFETY: the helper checks the length. It makes the packet linear, and one that is no segments any more.
        (unsafe { bpf_skb_change_tail(self.skb, len as u32, 0) } == 0).then_some(())
    }

    #[inline(always)]
    fn take_out(&mut self, count: usize) -> Option<()> {
        let count = -(count as i32);
        // SAFETY: the helper checks the count.
        let done =
            unsafe { bpf_skb_adjust_room(self.skb, count, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, 0) } == 0;
        done.then_some(())
    }

    #[inline(always)]
    fn fits(&mut self, ifindex: u32) -> bool {
        let mut mtu = 0u32;
        // SAFETY: the context of the program.
        let segmented = unsafe { (*self.skb).gso_size } > 0;
        // A whole packet loses its link header on the way; segments are measured without it.
        let (difference, flags) =
            if segmented { (0, MTU_CHECK_SEGMENTS) } else { (-(self.link.header_len() as i32), 0) };
        // SAFETY: the helper writes the integer.
        unsafe { bpf_check_mtu(self.skb.cast(), ifindex, &raw mut mtu, difference, flags) == 0 }
    }
}

/// Whether the kernel has a socket for a packet with these ends.
#[inline(always)]
fn has_socket(skb: *mut __sk_buff, ends: *mut bpf_sock_tuple, len: u32, number: u8) -> bool {
    // SAFETY: the helpers read as many bytes as they are told, and what they find is given back.
    unsafe {
        let socket = match number {
            protocol::TCP => bpf_skc_lookup_tcp(skb.cast(), ends, len, CURRENT_NAMESPACE, 0),
            protocol::UDP => bpf_sk_lookup_udp(skb.cast(), ends, len, CURRENT_NAMESPACE, 0),
            _ => return false,
        };
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
        true
    }
}

/// The four bytes of an IPv4 address where the kernel wants them.
#[inline(always)]
const fn v4_first(address: &Address) -> Address {
    [address[12], address[13], address[14], address[15], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}
