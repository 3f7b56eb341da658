//! The underlay: a router that every cluster's segment hangs off, as well as that of the outside, and the machine's
//! link to it.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use crate::address::{ClusterAddresses, Family};
use crate::cluster::Cluster;
use crate::outside::Outside;
use crate::place::{Place, run_here};
use crate::spec::{IpFamily, Spec};
use crate::{Error, Result};

/// The machine's end of the link to the underlay router.
pub const MANAGEMENT_LINK: &str = "tmbpg-mgmt";
/// The router's link to the segment outside of the clusters.
const OUTSIDE: &str = "outside";

/// A host on a segment.
#[derive(Debug)]
pub struct Host {
    /// The router's link to the segment.
    segment: String,
    /// The router's link to the host, which makes it a part of the segment.
    port: String,
    /// Its addresses.
    addresses: Vec<(Family, IpAddr)>,
    /// The router's address on the segment in each family.
    gateways: Vec<IpAddr>,
    /// Where to enter.
    place: Place,
}

impl Host {
    /// The control plane at `index` of a cluster.
    pub fn control_plane(cluster: &Cluster, index: usize, place: Place) -> Self {
        let port = format!("plane{}-{}", cluster.index(), index + 1);
        Self::of_cluster(cluster, port, |plan| plan.control_plane(index), place)
    }

    /// The node at `index` of a cluster.
    pub fn node(cluster: &Cluster, index: usize, place: Place) -> Self {
        Self::of_cluster(cluster, node_link(cluster.index(), index), |plan| plan.node(index), place)
    }

    /// A host outside of the clusters.
    pub fn outside(host: &Outside, families: IpFamily, place: Place) -> Self {
        let of_family = |&family| host.addresses(family).into_iter().map(move |address| (family, address));
        Self {
            segment: OUTSIDE.to_owned(),
            port: host.name(),
            addresses: families.families().iter().flat_map(of_family).collect(),
            gateways: families.families().iter().map(|family| family.outside(1)).collect(),
            place,
        }
    }

    fn of_cluster(
        cluster: &Cluster,
        port: String,
        address: impl Fn(ClusterAddresses) -> IpAddr,
        place: Place,
    ) -> Self {
        Self {
            segment: segment_link(cluster.index()),
            port,
            addresses: cluster.plans().map(|plan| (plan.family(), address(plan))).collect(),
            gateways: cluster.plans().map(ClusterAddresses::router).collect(),
            place,
        }
    }
}

/// Connects the machine and the router, which gets its segments.
pub fn start(router: &Place, spec: &Spec) -> Result<()> {
    let underlay = holder(router)?;
    ip_here(&format!("link add {MANAGEMENT_LINK} type veth peer name mgmt netns {underlay}\n"))?;
    if spec.ip_family.families().contains(&Family::V6) {
        enable_ipv6(MANAGEMENT_LINK)?;
    }
    ip(router, &router_links(spec))?;
    ip_here(&machine_routes(spec))
}

/// Connects hosts to the router. Their places must have been started, and only those.
pub fn connect(router: &Place, hosts: &[Host]) -> Result<()> {
    let underlay = holder(router)?;
    let (mut here, mut there) = (String::new(), String::new());
    for Host { segment, port, place, .. } in hosts {
        let host = holder(place)?;
        let _ = writeln!(here, "link add name eth0 netns {host} type veth peer name {port} netns {underlay}");
        let _ = writeln!(there, "link set {port} master {segment} up");
    }
    ip_here(&here)?;
    ip(router, &there)?;
    hosts.iter().try_for_each(|host| ip(&host.place, &host_links(host)))
}

/// Cuts a node off for good: its end of the link is gone, too.
pub fn disconnect(router: &Place, cluster: usize, node: usize) -> Result<()> {
    for link in [node_link(cluster, node), second_link(cluster, node)] {
        if router.output(&["ip", "link", "show", &link], b"")?.status.success() {
            router.run(&["ip", "link", "delete", &link], b"")?;
        }
    }
    Ok(())
}

/// Connects a node to the second segment of its cluster by `eth1`, which gets no address.
pub fn connect_second(cluster: &Cluster, node: usize, place: &Place) -> Result<()> {
    let router = Place::underlay(cluster.layout())?;
    let (underlay, host) = (holder(&router)?, holder(place)?);
    let (segment, port) = (format!("second{}", cluster.index()), second_link(cluster.index(), node));
    let mut lines = String::new();
    if !router.output(&["ip", "link", "show", &segment], b"")?.status.success() {
        let _ = writeln!(lines, "link add {segment} type bridge");
        for plan in cluster.plans() {
            let family = plan.family();
            lines.push_str(&address(family, plan.second_router(), family.segment_bits(), &segment));
        }
        let _ = writeln!(lines, "link set {segment} up");
    }
    let _ = writeln!(lines, "link set {port} master {segment} up");
    ip_here(&format!("link add name eth1 netns {host} type veth peer name {port} netns {underlay}\n"))?;
    ip(&router, &lines)
}

/// The router's link to the segment of the cluster at `index`.
pub fn segment_link(index: usize) -> String {
    format!("segment{index}")
}

/// The router's link to the TUN device of a node.
pub fn tun_link(cluster: usize, node: usize) -> String {
    format!("tun{cluster}-{}", node + 1)
}

fn node_link(cluster: usize, node: usize) -> String {
    format!("node{cluster}-{}", node + 1)
}

fn second_link(cluster: usize, node: usize) -> String {
    format!("second{cluster}-{}", node + 1)
}

fn holder(place: &Place) -> Result<i32> {
    place.holder().ok_or_else(|| Error::Missing(format!("{} is not running", place.name())))
}

/// A machine may have IPv6 off for new links.
fn enable_ipv6(link: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    std::fs::write(&path, "0").map_err(Error::io("write", &path))
}

fn router_links(spec: &Spec) -> String {
    let families = spec.ip_family.families();
    let mut lines = "link set lo up\n".to_owned();
    for &family in families {
        lines.push_str(&address(family, family.management_router(), family.management_bits(), "mgmt"));
    }
    lines.push_str("link set mgmt up\n");
    let mut segment = |link: &str, router: &dyn Fn(Family) -> IpAddr| {
        let _ = writeln!(lines, "link add {link} type bridge");
        for &family in families {
            lines.push_str(&address(family, router(family), family.segment_bits(), link));
        }
        let _ = writeln!(lines, "link set {link} up");
    };
    for index in 0..spec.clusters.len() {
        segment(&segment_link(index), &|family| ClusterAddresses::new(index, family).router());
    }
    segment(OUTSIDE, &|family| family.outside(1));
    lines
}

fn host_links(host: &Host) -> String {
    let mut lines = "link set lo up\n".to_owned();
    for &(family, ip) in &host.addresses {
        lines.push_str(&address(family, ip, family.segment_bits(), "eth0"));
    }
    lines.push_str("link set eth0 up\n");
    for gateway in &host.gateways {
        let _ = writeln!(lines, "route add default via {gateway}");
    }
    lines
}

fn machine_routes(spec: &Spec) -> String {
    let mut lines = String::new();
    for &family in spec.ip_family.families() {
        let machine = family.management_machine();
        lines.push_str(&address(family, machine, family.management_bits(), MANAGEMENT_LINK));
    }
    let _ = writeln!(lines, "link set {MANAGEMENT_LINK} up");
    for &family in spec.ip_family.families() {
        let router = family.management_router();
        for index in 0..spec.clusters.len() {
            let segment = ClusterAddresses::new(index, family).segment();
            let _ = writeln!(lines, "route add {segment} via {router} dev {MANAGEMENT_LINK}");
        }
    }
    lines
}

fn address(family: Family, address: IpAddr, bits: u8, link: &str) -> String {
    format!("addr add {address}/{bits} dev {link} {}\n", family.address_options())
}

fn ip(place: &Place, lines: &str) -> Result<()> {
    place.run(&["ip", "-batch", "-"], lines.as_bytes()).map(drop)
}

fn ip_here(lines: &str) -> Result<()> {
    run_here(Path::new("ip"), &["-batch", "-"], lines.as_bytes()).map(drop)
}
