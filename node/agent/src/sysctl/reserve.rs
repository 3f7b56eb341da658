//! Ports that the kernel gives to nobody, so that masquerading can have them.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
};

use tombolo_abi::NatPorts;

use super::{SysctlError, root, set};

const RANGE: &str = "net/ipv4/ip_local_port_range";
const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

/// Ports that the host's own connections need at least.
const LEAST_HOST_PORTS: usize = 1024;

/// Masquerading cannot have its ports.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The kernel would have hardly any left.
    #[error(
        "natPorts, and what net.ipv4.ip_local_reserved_ports has besides, leave {left} of the ports {range} that the host \
         gives to its own connections, which need {LEAST_HOST_PORTS}: make natPorts smaller, take former reservations out, \
         or make net.ipv4.ip_local_port_range wider"
    )]
    TooFew {
        /// How many.
        left: usize,
        /// `ip_local_port_range`.
        range: String,
    },
    /// A setting cannot be read.
    #[error("cannot read the sysctl {key}: mount /proc/sys/net of the host on /host/proc/sys/net")]
    Read {
        /// The setting.
        key: String,
        /// Why.
        source: io::Error,
    },
    /// A setting cannot be made.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
}

/// Keeps the kernel from giving ports that masquerading may take to connections of the host. What is reserved already
/// stays reserved.
pub fn reserve_ports(ports: &NatPorts) -> Result<(), ReserveError> {
    let reserved = read(RESERVED)?;
    let list = with_reserved(&reserved, &read(RANGE)?, ports)?;
    if reserved.trim() == list { Ok(()) } else { Ok(set(RESERVED, &list)?) }
}

/// In one call: the kernel gives a long list to the first one only, and tells any further that it has ended.
fn read(key: &str) -> Result<String, ReserveError> {
    let failed = |source| ReserveError::Read { key: key.replace('/', "."), source };
    let mut text = vec![0; 1 << 20];
    let len = fs::File::open(root().join(key)).and_then(|mut file| file.read(&mut text)).map_err(failed)?;
    text.truncate(len);
    String::from_utf8(text).map_err(|e| failed(io::Error::other(e)))
}

/// The list of reserved ports with `ports` added, when the host keeps enough of `range`.
fn with_reserved(reserved: &str, range: &str, ports: &NatPorts) -> Result<String, ReserveError> {
    let wanted = ports.ranges().into_iter().flat_map(|(first, last)| first..=last);
    let reserved: BTreeSet<u16> = parse(reserved).chain(wanted).collect();
    let range = range.split_whitespace().collect::<Vec<_>>().join("-");
    let left = parse(&range).filter(|port| !reserved.contains(port)).count();
    if left < LEAST_HOST_PORTS {
        return Err(ReserveError::TooFew { left, range });
    }
    Ok(written(&reserved))
}

/// The ports of a list as `8080,9148-9150`.
fn parse(list: &str) -> impl Iterator<Item = u16> {
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.trim().parse::<u16>().ok()?..=last.trim().parse::<u16>().ok()?)
    };
    list.trim().split(',').filter_map(range).flatten()
}

/// The opposite of [`parse`].
fn written(ports: &BTreeSet<u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for &port in ports {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
            _ => ranges.push((port, port)),
        }
    }
    let range = |(first, last): &(u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_already_stays_reserved() {
        let with = |reserved| with_reserved(reserved, "32768\t60999\n", &NatPorts::DEFAULT).unwrap();
        assert_eq!(with("\n"), "1024-29999,61000-65535");
        assert_eq!(with("80,8080,30100-30102\n"), "80,1024-29999,30100-30102,61000-65535");
    }

    #[test]
    fn the_host_keeps_ports_for_itself() {
        let with = |last| with_reserved("\n", "32768\t60999\n", &NatPorts::one(32_768, last));
        assert!(with(60_999 - 1024).is_ok());
        let error = with(60_999 - 1023).unwrap_err().to_string();
        for word in ["leave 1023", "32768-60999", "natPorts"] {
            assert!(error.contains(word), "{error}");
        }
    }
}
