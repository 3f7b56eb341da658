//! Kernel settings that the datapath relies on, all below /proc/sys/net. In a container that directory is read-only,
//! and the host's is mounted below /host.

mod reserve;

use std::{fs, io, path::Path};

pub use reserve::{ReserveError, reserve_ports};

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set the sysctl {key} to {value}: mount /proc/sys/net of the host on /host/proc/sys/net")]
pub struct SysctlError {
    key: String,
    value: String,
    source: io::Error,
}

/// Where settings are, the first that exists.
const ROOTS: [&str; 2] = ["/host/proc/sys", "/proc/sys"];

/// What the node as a whole needs: it forwards, and does not drop packets whose way back is another device, as
/// BPF sends them past the routing table.
pub fn prepare_node() -> Result<(), SysctlError> {
    set("net/ipv4/ip_forward", "1")?;
    set("net/ipv4/conf/all/rp_filter", "0")?;
    keep_advertised_routes()?;
    set_optional("net/ipv6/conf/all/forwarding", "1")
}

/// What a device needs that carries pod traffic: the host side of a veth pair, or the tunnel.
pub fn prepare_device(name: &str) -> Result<(), SysctlError> {
    set(&format!("net/ipv4/conf/{name}/rp_filter"), "0")
}

/// Keeps a device without IPv6 addresses from talking IPv6 on its own (router solicitations, multicast reports).
pub fn disable_ipv6(name: &str) -> Result<(), SysctlError> {
    set_optional(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")
}

/// A device that begins to forward IPv6 no longer listens to router advertisements and forgets the routes that it has
/// from them, the default route maybe among them, unless `accept_ra` is 2. One that forwards already is left alone: the
/// host sides of veth pairs must not listen to what pods advertise.
fn keep_advertised_routes() -> Result<(), SysctlError> {
    // Without the directory the kernel has no IPv6.
    let Ok(devices) = fs::read_dir(root().join("net/ipv6/conf")) else { return Ok(()) };
    let names = devices.flatten().filter_map(|device| device.file_name().into_string().ok());
    for name in names.filter(|name| name != "all" && name != "default") {
        let key = |setting| format!("net/ipv6/conf/{name}/{setting}");
        if is(&key("forwarding"), "0") && is(&key("accept_ra"), "1") {
            set_optional(&key("accept_ra"), "2")?;
        }
    }
    Ok(())
}

fn set(key: &str, value: &str) -> Result<(), SysctlError> {
    let path = root().join(key);
    let failed = |source| SysctlError { key: key.replace('/', "."), value: value.to_owned(), source };
    // Writing needs more rights than reading: leave alone what is right.
    if is(key, value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(failed)
}

fn is(key: &str, value: &str) -> bool {
    fs::read_to_string(root().join(key)).is_ok_and(|now| now.trim() == value)
}

fn root() -> &'static Path {
    ROOTS.iter().map(Path::new).find(|root| root.join("net").is_dir()).unwrap_or(Path::new("/proc/sys"))
}

/// As [`set`], for what a kernel may be built without.
fn set_optional(key: &str, value: &str) -> Result<(), SysctlError> {
    match set(key, value) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
