//! The few commands of bpf(2) that are needed on raw links: creating one, replacing its program, pinning. The numbers
//! and layouts are those of include/uapi/linux/bpf.h.

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

const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

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
