//! The underlay: a router that every cluster's segment hangs off, and the machine's link to it.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use crate::address::{ClusterAddresses, Family};
use crate::place::{Place, run_here};
use crate::spec::Spec;
use crate::{Error, Result};

/// The machine's end of the link to the underlay router.
pub const MANAGEMENT_LINK: &str = "tmbpg-mgmt";

/// A host on a cluster's segment: a node or a control plane.
#[derive(Debug)]
pub struct Host {
    /// Index of the cluster.
    pub cluster: usize,
    /// The process that holds the host's network namespace.
    pub holder: i32,
    /// Its address on the segment in each family, and the plan that it is from.
    pub addresses: Vec<(ClusterAddresses, IpAddr)>,
    /// Where to enter.
    pub place: Place,
}

/// Connects the machine, the router and all hosts. The places must have been started, and only those.
pub fn connect(router: &Place, spec: &Spec, hosts: &[Host]) -> Result<()> {
    let underlay = router
        .holder()
        .ok_or_else(|| Error::Missing("the underlay is not running; `playground up` starts it".into()))?;
    let families = spec.ip_family.families();
    ip_here(&machine_links(underlay, hosts))?;
    if families.contains(&Family::V6) {
        enable_ipv6(MANAGEMENT_LINK)?;
    }
    router.run(&["ip", "-batch", "-"], router_links(spec, hosts).as_bytes())?;
    for host in hosts {
        host.place.run(&["ip", "-batch", "-"], host_links(host).as_bytes())?;
    }
    ip_here(&machine_routes(spec))
}

fn machine_links(underlay: i32, hosts: &[Host]) -> String {
    let mut lines = format!("link add {MANAGEMENT_LINK} type veth peer name mgmt netns {underlay}\n");
    for (i, host) in hosts.iter().enumerate() {
        let _ = writeln!(
            lines,
            "link add name eth0 netns {} type veth peer name port{i} netns {underlay}",
            host.holder
        );
    }
    lines
}

/// A machine may have IPv6 off for new links.
fn enable_ipv6(link: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    std::fs::write(&path, "0").map_err(Error::io("write", &path))
}

fn router_links(spec: &Spec, hosts: &[Host]) -> String {
    let mut lines = "link set lo up\n".to_owned();
    for &family in spec.ip_family.families() {
        lines.push_str(&address(family, family.management_router(), family.management_bits(), "mgmt"));
    }
    lines.push_str("link set mgmt up\n");
    for index in 0..spec.clusters.len() {
        let link = segment_link(index);
        let _ = writeln!(lines, "link add {link} type bridge");
        for &family in spec.ip_family.families() {
            let router = ClusterAddresses::new(index, family).router();
            lines.push_str(&address(family, router, family.segment_bits(), &link));
        }
        let _ = writeln!(lines, "link set {link} up");
    }
    for (i, host) in hosts.iter().enumerate() {
        let _ = writeln!(lines, "link set port{i} master {} up", segment_link(host.cluster));
    }
    lines
}

fn host_links(host: &Host) -> String {
    let mut lines = "link set lo up\n".to_owned();
    for &(plan, ip) in &host.addresses {
        lines.push_str(&address(plan.family(), ip, plan.family().segment_bits(), "eth0"));
    }
    lines.push_str("link set eth0 up\n");
    for (plan, _) in &host.addresses {
        let _ = writeln!(lines, "route add default via {}", plan.router());
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

/// The router's link to the segment of the cluster at `index`.
pub fn segment_link(index: usize) -> String {
    format!("segment{index}")
}

fn ip_here(lines: &str) -> Result<()> {
    run_here(Path::new("ip"), &["-batch", "-"], lines.as_bytes()).map(drop)
}
