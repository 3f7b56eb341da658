//! Devices without an Ethernet header.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    thread,
};

use super::run;

/// The largest packet of such a device.
pub const MTU: u32 = 1420;

/// A TUN device in the namespace of the calling thread.
pub fn tun(name: &str) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN_NO_PI: u16 = 0x1001;
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&IFF_TUN_NO_PI.to_ne_bytes());
    #[expect(unsafe_code, reason = "there is no safe way to make a TUN device")]
    // SAFETY: the kernel reads and writes a struct ifreq of 40 bytes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(result, 0, "TUNSETIFF (needs root)");
    run(&format!("ip link set {name} mtu {MTU} txqueuelen 10000 up"));
    file
}

/// Carries packets from one device to another until the first goes away.
pub fn carry(from: &File, to: &File) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(len) = from.read(&mut buffer) {
            assert!(len <= MTU as usize, "{len} bytes");
            if to.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    });
}
