//! The link between two clusters: cut, or with a smaller MTU.
//!
//! The underlay router has one policy rule per direction, which either drops the packets or routes them
//! by a table of their own. Nothing in the nodes changes.

use std::fmt::Write;

use crate::cluster::Cluster;
use crate::layout::Layout;
use crate::place::Place;
use crate::underlay::segment_link;
use crate::{Error, Result};

/// First priority and table number that links use; below the main table's priority 32766.
const BASE: usize = 10_000;
/// Smallest MTU that IPv4 demands of a link, in bytes (RFC 791).
const MIN_MTU: u32 = 68;
/// The MTU of all links, in bytes.
const FULL_MTU: u32 = 1500;

/// The complete state of a link; the default is an unimpaired link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Nothing passes.
    pub down: bool,
    /// The largest IP packet that passes, in bytes, 68 to 1500; larger ones that must not be fragmented
    /// are answered by ICMP.
    pub mtu: Option<u32>,
}

/// Puts the link between two clusters into this state, in both directions.
pub fn set(layout: &Layout, a: &Cluster, b: &Cluster, state: LinkState) -> Result<()> {
    if let Some(mtu) = state.mtu.filter(|mtu| !(MIN_MTU..=FULL_MTU).contains(mtu)) {
        return Err(Error::Invalid(format!("mtu is {mtu}; give a number of bytes from {MIN_MTU} to {FULL_MTU}")));
    }
    let router = Place::underlay(layout)?;
    for (from, to) in [(a, b), (b, a)] {
        clear(&router, from, to)?;
        let lines = rules(from, to, state);
        router.run(&["ip", "-batch", "-"], lines.as_bytes())?;
    }
    Ok(())
}

fn clear(router: &Place, from: &Cluster, to: &Cluster) -> Result<()> {
    let number = number(from, to).to_string();
    let rules = router.run(&["ip", "rule", "show", "priority", &number], b"")?;
    if !rules.is_empty() {
        router.run(&["ip", "rule", "delete", "priority", &number], b"")?;
    }
    Ok(())
}

fn rules(from: &Cluster, to: &Cluster, state: LinkState) -> String {
    let number = number(from, to);
    let segment = to.addresses().segment();
    let rule = format!("rule add priority {number} iif {} to {segment}", segment_link(from.index()));
    let mut lines = String::new();
    if state.down {
        let _ = writeln!(lines, "{rule} blackhole");
    } else if let Some(mtu) = state.mtu {
        let device = segment_link(to.index());
        let _ = writeln!(lines, "route replace {segment} dev {device} mtu {mtu} table {number}");
        let _ = writeln!(lines, "{rule} lookup {number}");
    }
    lines
}

fn number(from: &Cluster, to: &Cluster) -> usize {
    BASE + from.index() * crate::spec::MAX_CLUSTERS + to.index()
}
