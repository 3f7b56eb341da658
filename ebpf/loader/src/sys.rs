//! The few commands of bpf(2) that aya lacks: on raw links (creating one, replacing its program, pinning), reading a map in
//! batches, and maps whose keys and values have no type here. The numbers and layouts are those of include/uapi/linux/bpf.h.

#![expect(unsafe_code, reason = "the one place of this crate that makes system calls")]

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use bytemuck::{Pod, Zeroable};

pub const CGROUP_INET4_CONNECT: u32 = 10;
pub const CGROUP_INET6_CONNECT: u32 = 11;
pub const CGROUP_UDP4_SENDMSG: u32 = 14;
pub const CGROUP_UDP6_SENDMSG: u32 = 15;
pub const CGROUP_UDP4_RECVMSG: u32 = 19;
pub const CGROUP_UDP6_RECVMSG: u32 = 20;
pub const CGROUP_INET4_GETPEERNAME: u32 = 29;
pub const CGROUP_INET6_GETPEERNAME: u32 = 30;
pub const TCX_INGRESS: u32 = 46;
pub const TCX_EGRESS: u32 = 47;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

const BPF_MAP_TYPE_ARRAY: u32 = 2;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    /// A value, or the next key.
    value: u64,
    flags: u64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    options: [u64; 2],
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Batch {
    after: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Makes an array with one value of this size.
pub fn create_array(value_size: usize) -> io::Result<OwnedFd> {
    let value_size = u32::try_from(value_size).map_err(io::Error::other)?;
    let attr = MapCreate { kind: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size, entries: 1, flags: 0 };
    let fd = bpf(BPF_MAP_CREATE, &attr)?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Reads a value into `value`, which must have the size of the map's values, as `key` that of its keys.
///
/// # Errors
/// `ENOENT` when there is none.
pub fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<()> {
    let (key, value) = (key.as_ptr() as u64, value.as_mut_ptr() as u64);
    bpf(BPF_MAP_LOOKUP_ELEM, &Element { map: raw(map), padding: 0, key, value, flags: 0 }).map(drop)
}

/// Adds or replaces an entry of such sizes; with `only_new`, one that is there stays.
///
/// # Errors
/// `EEXIST` for one that stays, `E2BIG` when the map is full.
pub fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8], only_new: bool) -> io::Result<()> {
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    let flags = u64::from(only_new);
    bpf(BPF_MAP_UPDATE_ELEM, &Element { map: raw(map), padding: 0, key, value, flags }).map(drop)
}

/// Writes the key after `key` (the first one, if none) into `next`, both of the size of the map's keys; false at the end.
pub fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let (key, value) = (key.map_or(0, |key| key.as_ptr() as u64), next.as_mut_ptr() as u64);
    match bpf(BPF_MAP_GET_NEXT_KEY, &Element { map: raw(map), padding: 0, key, value, flags: 0 }) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads the next entries of a hash map into the buffers, which have room for `count` of its keys and values. `position` is
/// where the reader stands: none before the first call. Returns how many there were, and whether there are more.
///
/// # Errors
/// `ENOSPC` when there is no room for one bucket.
pub fn lookup_batch(
    map: BorrowedFd<'_>,
    position: &mut Option<u32>,
    keys: &mut [u8],
    values: &mut [u8],
    count: usize,
) -> io::Result<(usize, bool)> {
    let mut next = 0u32;
    let mut attr = Batch {
        after: position.as_ref().map_or(0, |bucket| std::ptr::from_ref(bucket) as u64),
        next: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map: raw(map),
        element_flags: 0,
        flags: 0,
    };
    let size = size_of::<Batch>();
    // SAFETY: the kernel writes `next`, at most `count` keys and values, and `count` itself, all of which outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size) };
    let more = result >= 0;
    if !more {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOENT) {
            return Err(error);
        }
    }
    *position = Some(next);
    Ok((attr.count as usize, more))
}

/// Attaches a program to a device (by index) or a cgroup (by descriptor).
pub fn link_create(program: BorrowedFd<'_>, target: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let attr = LinkCreate { program: raw(program), target, attach_type, flags: 0, options: [0; 2] };
    let fd = bpf(BPF_LINK_CREATE, &attr)?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Replaces the program of a link in one step.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attr = LinkUpdate { link: raw(link), program: raw(program), flags: 0, old_program: 0 };
    bpf(BPF_LINK_UPDATE, &attr).map(drop)
}

/// Gives an object a name on a BPF filesystem.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(BPF_OBJ_PIN, &Object { path: path.as_ptr() as u64, fd: raw(object), flags: 0 }).map(drop)
}

/// Opens an object by its name on a BPF filesystem.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let fd = bpf(BPF_OBJ_GET, &Object { path: path.as_ptr() as u64, fd: 0, flags: 0 })?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// The number of a descriptor, which is never negative.
pub fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn bpf<A: Pod>(command: libc::c_int, attr: &A) -> io::Result<i32> {
    // SAFETY: `attr` is as long as it says, and the paths in it outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}
