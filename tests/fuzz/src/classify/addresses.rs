//! The few addresses that packets and maps of the target are about.

use tombolo_abi::{Address, v4_mapped};

/// Local pods; they are behind devices 1, 2 and 3, and their numbers in `POLICY` are these.
pub const PODS: [usize; 3] = [0, 1, 2];
/// The node itself.
pub const NODE: usize = 3;
/// Another node of the own cluster.
pub const OTHER_NODE: usize = 4;
/// A pod on that node.
pub const SIBLING: usize = 5;
/// A pod of another cluster.
pub const REMOTE: usize = 6;
/// A pod of another cluster that only a prefix knows.
pub const REMOTE_UNKNOWN: usize = 7;
/// A node of another cluster.
pub const REMOTE_NODE: usize = 8;
/// Hosts of the outside world.
pub const OUTSIDE: [usize; 2] = [9, 10];
/// The gateway of pods.
pub const GATEWAY: usize = 11;
/// Frontends.
pub const VIPS: [usize; 2] = [12, 13];

const V4: [[u8; 4]; 16] = [
    [10, 1, 0, 1],
    [10, 1, 0, 2],
    [10, 1, 0, 3],
    [192, 168, 0, 1],
    [192, 168, 0, 2],
    [10, 1, 1, 1],
    [10, 2, 0, 1],
    [10, 2, 0, 2],
    [172, 16, 2, 1],
    [203, 0, 113, 9],
    [203, 0, 113, 10],
    [169, 254, 1, 1],
    [10, 96, 0, 10],
    [10, 96, 0, 11],
    [169, 254, 9, 9],
    [0, 0, 0, 0],
];

/// One of them, in one of the families.
pub const fn address(who: usize, v6: bool) -> Address {
    let four = V4[who % 16];
    if !v6 {
        return v4_mapped(four);
    }
    match who % 16 {
        14 => [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
        15 => [0; 16],
        _ => [0xfd, four[0], four[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, four[2], four[3]],
    }
}
