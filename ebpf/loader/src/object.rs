//! The objects that the build script compiled.

use aya::include_bytes_aligned;

/// One compiled object.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Its name, that of its attach point.
    pub name: &'static str,
    /// The ELF file.
    pub bytes: &'static [u8],
}

macro_rules! objects {
    ($($name:literal),*) => {
        /// All tc programs; each object holds one program of the same name.
        pub const TC: &[Object] = &[$(Object {
            name: $name,
            bytes: include_bytes_aligned!(concat!(env!("OUT_DIR"), "/", $name)),
        },)*];
    };
}

objects!(
    "pod_egress",
    "pod_ingress",
    "net_ingress",
    "net_ingress_raw",
    "net_egress",
    "net_egress_raw",
    "mesh_ingress"
);

/// What benchmarks compare the others with.
pub const FLOOR: Object =
    Object { name: "floor", bytes: include_bytes_aligned!(concat!(env!("OUT_DIR"), "/floor")) };

/// The cgroup programs.
pub const SOCK_LB: Object =
    Object { name: "sock_lb", bytes: include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sock_lb")) };

/// Those of them that find out again what a socket was redirected from.
pub const SOCK_LB_LOOKUPS: [&str; 4] = ["recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];

/// The programs of [`SOCK_LB`] and where they attach.
pub const SOCK_LB_PROGRAMS: [(&str, u32); 8] = [
    ("connect4", crate::sys::CGROUP_INET4_CONNECT),
    ("connect6", crate::sys::CGROUP_INET6_CONNECT),
    ("sendmsg4", crate::sys::CGROUP_UDP4_SENDMSG),
    ("sendmsg6", crate::sys::CGROUP_UDP6_SENDMSG),
    ("recvmsg4", crate::sys::CGROUP_UDP4_RECVMSG),
    ("recvmsg6", crate::sys::CGROUP_UDP6_RECVMSG),
    ("getpeername4", crate::sys::CGROUP_INET4_GETPEERNAME),
    ("getpeername6", crate::sys::CGROUP_INET6_GETPEERNAME),
];
