//! What a node has besides its first network device, and what comes and goes: a second device, a device without
//! Ethernet, and one more address.

use std::fmt::{self, Write};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use crate::address::ClusterAddresses;
use crate::cluster::Cluster;
use crate::place::Place;
use crate::syscall::create_tun;
use crate::underlay;
use crate::unit::Unit;
use crate::{Error, Result};

/// How long a TUN device may take to appear or to go.
const PATIENCE: Duration = Duration::from_secs(5);
/// Larger than any packet of a TUN device with an MTU of 1500 bytes.
const BUFFER: usize = 2048;

/// What a node can get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// `eth1`, on a second segment of the cluster, which the router is on, too.
    Second,
    /// `tun0`, without Ethernet headers, with the router at its other end.
    Tun,
    /// One more address of each family on `eth0`.
    Address,
}

impl Device {
    /// Its name in the node.
    pub fn link(self) -> &'static str {
        match self {
            Self::Second => "eth1",
            Self::Tun => "tun0",
            Self::Address => "eth0",
        }
    }

    fn address(self, plan: ClusterAddresses, node: usize) -> IpAddr {
        match self {
            Self::Second => plan.second(node),
            Self::Tun => plan.tun(node),
            Self::Address => plan.floating(node),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Tun => "tun",
            Self::Address => "address",
        })
    }
}

impl Cluster {
    /// Gives a node one of these, and returns the addresses that it has by it, one of each family. Nothing is
    /// routed by a new device but its own segment. A reboot takes it away.
    pub fn add_device(&self, node: &str, device: Device) -> Result<Vec<IpAddr>> {
        let place = self.node(node)?;
        let number = self.node_index(node)?;
        let addresses: Vec<IpAddr> = self.plans().map(|plan| device.address(plan, number)).collect();
        if self.has(&place, device, &addresses)? {
            return Err(Error::Invalid(format!("device is {device}, which {node} has; remove it first")));
        }
        match device {
            Device::Second => underlay::connect_second(self, number, &place)?,
            Device::Tun => self.start_tun(node, number, &place)?,
            Device::Address => {}
        }
        // Up first: the kernel makes the route to a peer of IPv6 only on a device that is.
        let mut lines = format!("link set {} up\n", device.link());
        for (plan, address) in self.plans().zip(&addresses) {
            let options = plan.family().address_options();
            let _ = match device {
                Device::Tun => {
                    let router = plan.tun_router();
                    writeln!(lines, "addr add {address} peer {router} dev tun0 {options}")
                }
                _ => {
                    let (bits, link) = (plan.family().segment_bits(), device.link());
                    writeln!(lines, "addr add {address}/{bits} dev {link} {options}")
                }
            };
        }
        place.run(&["ip", "-batch", "-"], lines.as_bytes())?;
        Ok(addresses)
    }

    /// Takes from a node what [`Self::add_device`] has given it.
    pub fn remove_device(&self, node: &str, device: Device) -> Result<()> {
        let place = self.node(node)?;
        let number = self.node_index(node)?;
        let addresses: Vec<IpAddr> = self.plans().map(|plan| device.address(plan, number)).collect();
        if !self.has(&place, device, &addresses)? {
            return Err(Error::Invalid(format!(
                "device is {device}, which {node} does not have; add it first"
            )));
        }
        match device {
            Device::Second => place.run(&["ip", "link", "delete", "eth1"], b"").map(drop),
            Device::Tun => {
                let unit = self.tun_unit(node, number)?;
                unit.kill(&place)?;
                unit.forget()?;
                self.wait_tun(number, &place, false)
            }
            Device::Address => {
                let lines = self.plans().zip(&addresses).fold(String::new(), |mut lines, (plan, address)| {
                    let _ =
                        writeln!(lines, "addr delete {address}/{} dev eth0", plan.family().segment_bits());
                    lines
                });
                place.run(&["ip", "-batch", "-"], lines.as_bytes()).map(drop)
            }
        }
    }

    fn has(&self, place: &Place, device: Device, addresses: &[IpAddr]) -> Result<bool> {
        let shown = place.output(&["ip", "-oneline", "address", "show", "dev", device.link()], b"")?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        Ok(addresses.iter().any(|address| {
            shown.contains(&format!(" {address}/")) || shown.contains(&format!(" {address} "))
        }))
    }

    /// Starts the process whose two TUN devices are the two ends, and gives the router's its addresses.
    fn start_tun(&self, node: &str, number: usize, place: &Place) -> Result<()> {
        self.tun_unit(node, number)?.start(place)?;
        let router = Place::underlay(self.layout())?;
        let there = underlay::tun_link(self.index(), number);
        self.wait_tun(number, place, true)?;
        let mut lines = format!("link set {there} up\n");
        for plan in self.plans() {
            let (own, peer, options) = (plan.tun_router(), plan.tun(number), plan.family().address_options());
            let _ = writeln!(lines, "addr add {own} peer {peer} dev {there} {options}");
        }
        router.run(&["ip", "-batch", "-"], lines.as_bytes()).map(drop)
    }

    /// Waits until both ends are there or gone.
    fn wait_tun(&self, number: usize, place: &Place, there: bool) -> Result<()> {
        let link = underlay::tun_link(self.index(), number);
        wait_link(place, "tun0", there)?;
        wait_link(&Place::underlay(self.layout())?, &link, there)
    }

    fn tun_unit(&self, node: &str, number: usize) -> Result<Unit> {
        let router = Place::underlay(self.layout())?;
        let holder = router.holder().ok_or_else(|| Error::Missing("the underlay is not running".into()))?;
        let there = underlay::tun_link(self.index(), number);
        let arguments = ["internal", "tunnel", "tun0", &holder.to_string(), &there].map(str::to_owned);
        let program = self.layout().programs().join("playground");
        let mut unit = Unit::new(&program, arguments, &self.layout().node(self.name(), node));
        unit.name = "tun0".into();
        Ok(unit)
    }
}

/// Makes the TUN device `here` in this network namespace and `there` in that of the process `other`, and lets what
/// goes in at one come out at the other until it is killed.
pub fn tunnel(here: &str, other: i32, there: &str) -> Result<()> {
    let near = create_tun(here)?;
    let path = format!("/proc/{other}/ns/net");
    let namespace = File::open(&path).map_err(Error::io("open", &path))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Error::system(format!("enter {path}")))?;
    let far = create_tun(there)?;
    let failed = thread::scope(|scope| {
        let out = scope.spawn(|| copy(&near, &far));
        let back = copy(&far, &near);
        back.and(out.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    failed.map_err(Error::io("forward on", here))
}

fn copy(mut from: &File, mut to: &File) -> io::Result<()> {
    use io::{Read, Write};
    let mut buffer = [0; BUFFER];
    loop {
        let length = from.read(&mut buffer)?;
        // The kernel refuses packets while the other end is down, as a wire loses them.
        let _ = to.write(buffer.get(..length).unwrap_or_default());
    }
}

fn wait_link(place: &Place, link: &str, there: bool) -> Result<()> {
    let started = Instant::now();
    while place.output(&["ip", "link", "show", link], b"")?.status.success() != there {
        if started.elapsed() > PATIENCE {
            return Err(Error::Timeout {
                what: format!(
                    "the device {link} of {} did not {}",
                    place.name(),
                    if there { "appear" } else { "go" }
                ),
                seconds: PATIENCE.as_secs(),
                hint: "see tun0.log in the node's directory".into(),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
