//! The system calls that the standard library cannot make, and this program has no other libraries.
//!
//! Numbers and layouts are those of 64-bit Linux, the same on x86-64 and arm64.

use std::ffi::{c_int, c_ulong};
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{FromRawFd, OwnedFd};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const SOCK_RAW: c_int = 3;
const SOCK_CLOEXEC: c_int = 0o2_000_000;
const RLIMIT_NOFILE: c_int = 7;

/// `struct rlimit`, in files.
#[repr(C)]
struct Limit {
    soft: c_ulong,
    hard: c_ulong,
}

#[expect(unsafe_code, reason = "the signatures are those of the C library, which std links")]
unsafe extern "C" {
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn socket(family: c_int, kind: c_int, protocol: c_int) -> c_int;
    fn bind(socket: c_int, address: *const u8, length: u32) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
}

/// Lets a signal call `handler`, which must do no more than store to an atomic.
#[expect(unsafe_code, reason = "the standard library cannot handle signals")]
pub fn handle(number: c_int, handler: extern "C" fn(c_int)) -> io::Result<()> {
    // SAFETY: signal(2) takes any number, and a function that may run at any time, which the caller promises.
    let before = unsafe { signal(number, handler) };
    if before == usize::MAX { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens a raw socket for an IP protocol on an address (which may be the unspecified one), for which it needs
/// CAP_NET_RAW. It is used as a UDP socket with port 0; what it receives begins with the IP header for IPv4, and
/// has none for IPv6.
#[expect(unsafe_code, reason = "the standard library has no raw sockets")]
pub fn raw_socket(local: IpAddr, protocol: u8) -> io::Result<UdpSocket> {
    let (family, address) = socket_address(local);
    // SAFETY: socket(2) takes any numbers.
    let descriptor = unsafe { socket(family.into(), SOCK_RAW | SOCK_CLOEXEC, protocol.into()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was opened just now and nobody else knows it.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let length = u32::try_from(address.len()).unwrap_or_default();
    // SAFETY: `address` is a socket address of this family and of this length, and outlives the call.
    if unsafe { bind(descriptor, address.as_ptr(), length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(owned.into())
}

/// Allows this process at least so many open files; an error when that is more than it may allow itself.
#[expect(unsafe_code, reason = "the standard library does not change limits")]
pub fn allow_files(count: u64) -> Result<(), String> {
    let fail = |error: io::Error| format!("cannot allow {count} open files: {error}");
    let mut limit = Limit { soft: 0, hard: 0 };
    // SAFETY: `limit` is a complete struct rlimit that outlives the call.
    if unsafe { getrlimit(RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    if limit.soft >= count {
        return Ok(());
    }
    if limit.hard < count {
        return Err(format!("{count} open files are needed and {} allowed; raise the limit", limit.hard));
    }
    limit.soft = count;
    // SAFETY: as above.
    if unsafe { setrlimit(RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(fail(io::Error::last_os_error()));
    }
    Ok(())
}

/// The family and the bytes of `struct sockaddr_in` or `struct sockaddr_in6`, with port 0.
fn socket_address(address: IpAddr) -> (u16, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AF_INET, [&AF_INET.to_ne_bytes()[..], &[0; 2], &v4.octets(), &[0; 8]].concat()),
        IpAddr::V6(v6) => (AF_INET6, [&AF_INET6.to_ne_bytes()[..], &[0; 6], &v6.octets(), &[0; 4]].concat()),
    }
}
