//! The underlay: a router that every cluster's segment hangs off, and the machine's link to it.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::address::{ClusterAddresses, MANAGEMENT_MACHINE, MANAGEMENT_ROUTER};
use crate::place::{Place, run_here};
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
    /// Its address on the segment.
    pub address: Ipv4Addr,
    /// Where to enter.
    pub place: Place,
}

/// Connects the machine, the router and all hosts. The places must have been started, and only those.
pub fn connect(router: &Place, clusters: usize, hosts: &[Host]) -> Result<()> {
    let underlay = router
        .holder()
        .ok_or_else(|| Error::Missing("the underlay is not running; `playground up` starts it".into()))?;
    ip_here(&machine_links(underlay, hosts))?;
    router.run(&["ip", "-batch", "-"], router_links(clusters, hosts).as_bytes())?;
    for host in hosts {
        let gateway = ClusterAddresses::new(host.cluster).router();
        let address = host.address;
        let lines = format!(
            "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"
        );
        host.place.run(&["ip", "-batch", "-"], lines.as_bytes())?;
    }
    ip_here(&machine_routes(clusters))
}

fn machine_links(underlay: i32, hosts: &[Host]) -> String {
    let mut lines = format!(
        "link add {MANAGEMENT_LINK} type veth peer name mgmt netns {underlay}\n\
         addr add {MANAGEMENT_MACHINE}/30 dev {MANAGEMENT_LINK}\n\
         link set {MANAGEMENT_LINK} up\n"
    );
    for (i, host) in hosts.iter().enumerate() {
        let _ = writeln!(
            lines,
            "link add name eth0 netns {} type veth peer name port{i} netns {underlay}",
            host.holder
        );
    }
    lines
}

fn router_links(clusters: usize, hosts: &[Host]) -> String {
    let mut lines = format!("link set lo up\naddr add {MANAGEMENT_ROUTER}/30 dev mgmt\nlink set mgmt up\n");
    for index in 0..clusters {
        let router = ClusterAddresses::new(index).router();
        let _ = writeln!(
            lines,
            "link add {0} type bridge\naddr add {router}/24 dev {0}\nlink set {0} up",
            segment_link(index)
        );
    }
    for (i, host) in hosts.iter().enumerate() {
        let _ = writeln!(lines, "link set port{i} master {} up", segment_link(host.cluster));
    }
    lines
}

fn machine_routes(clusters: usize) -> String {
    (0..clusters).fold(String::new(), |mut lines, index| {
        let segment = ClusterAddresses::new(index).segment();
        let _ = writeln!(lines, "route add {segment} via {MANAGEMENT_ROUTER} dev {MANAGEMENT_LINK}");
        lines
    })
}

/// The router's link to the segment of the cluster at `index`.
pub fn segment_link(index: usize) -> String {
    format!("segment{index}")
}

fn ip_here(lines: &str) -> Result<()> {
    run_here(Path::new("ip"), &["-batch", "-"], lines.as_bytes()).map(drop)
}
