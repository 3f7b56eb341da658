//! The link between two clusters: cut, slowed, lossy, or with a smaller MTU.
//!
//! The underlay router has one policy rule per direction and address family, which either drops the packets or
//! routes them by a table of their own. Loss and delay are the work of a [`crate::forwarder`] per link. Nothing
//! in the nodes changes.

use std::fmt::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::address::{ClusterAddresses, Family};
use crate::cluster::Cluster;
use crate::layout::{Layout, create_dir, read, write};
use crate::place::Place;
use crate::underlay::segment_link;
use crate::unit::Unit;
use crate::{Error, Result};

/// First priority and table number that links use; before the main table's priority 32766.
const BASE: usize = 10_000;
/// The MTU of all links, in bytes.
const FULL_MTU: u32 = 1500;
/// What a forwarder needs beyond its delay to pass on its last packet.
const DRAIN: Duration = Duration::from_millis(100);
/// Longest delay, in milliseconds.
const MAX_DELAY: u32 = 10_000;

/// The complete state of a link; the default is an unimpaired link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkState {
    /// Nothing passes.
    pub down: bool,
    /// How many of a hundred packets are lost in each direction, 0 to 100.
    pub loss_percent: u8,
    /// How long each packet is held in each direction, in milliseconds, at most 10,000.
    pub delay_ms: u32,
    /// The largest IP packet that passes, in bytes, 68 to 1500, from 1280 where there is IPv6; larger ones that must
    /// not be fragmented are answered by ICMP.
    pub mtu: Option<u32>,
}

impl LinkState {
    fn check(self, families: impl Iterator<Item = Family>) -> Result<()> {
        let invalid = |message: String| Err(Error::Invalid(message));
        let least = families.map(Family::least_mtu).max().unwrap_or(FULL_MTU);
        if let Some(mtu) = self.mtu.filter(|mtu| !(least..=FULL_MTU).contains(mtu)) {
            return invalid(format!("mtu is {mtu}; give a number of bytes from {least} to {FULL_MTU}"));
        }
        if self.loss_percent > 100 {
            return invalid(format!("loss is {}; give a percentage from 0 to 100", self.loss_percent));
        }
        if self.delay_ms > MAX_DELAY {
            return invalid(format!("delay is {}; give at most {MAX_DELAY} milliseconds", self.delay_ms));
        }
        Ok(())
    }

    fn needs_forwarder(self) -> bool {
        !self.down && (self.loss_percent > 0 || self.delay_ms > 0)
    }
}

/// Puts the link between two clusters into this state, in both directions.
pub fn set(layout: &Layout, a: &Cluster, b: &Cluster, state: LinkState) -> Result<()> {
    state.check(a.plans().map(ClusterAddresses::family))?;
    let (a, b) = if a.index() < b.index() { (a, b) } else { (b, a) };
    let router = Place::underlay(layout)?;
    for (from, to) in [(a, b), (b, a)] {
        clear(&router, from, to)?;
    }
    let device = format!("link{}-{}", a.index(), b.index());
    let forwarder = forwarder(layout, &device, state);
    stop_forwarder(&router, &forwarder, &device)?;
    if state.needs_forwarder() {
        start_forwarder(&router, &forwarder, &device)?;
    }
    for (from, to) in [(a, b), (b, a)] {
        let out = if state.needs_forwarder() { device.clone() } else { segment_link(to.index()) };
        for plan in to.plans() {
            let lines = rules(from, to, &plan.segment(), state, &out);
            router.run(&["ip", plan.family().ip_option(), "-batch", "-"], lines.as_bytes())?;
        }
    }
    Ok(())
}

fn clear(router: &Place, from: &Cluster, to: &Cluster) -> Result<()> {
    let number = number(from, to).to_string();
    for option in to.plans().map(|plan| plan.family().ip_option()) {
        let rules = router.run(&["ip", option, "rule", "show", "priority", &number], b"")?;
        if !rules.is_empty() {
            router.run(&["ip", option, "rule", "delete", "priority", &number], b"")?;
        }
    }
    Ok(())
}

fn rules(from: &Cluster, to: &Cluster, segment: &str, state: LinkState, device: &str) -> String {
    let number = number(from, to);
    let rule = format!("rule add priority {number} iif {} to {segment}", segment_link(from.index()));
    let mut lines = String::new();
    if state.down {
        let _ = writeln!(lines, "{rule} blackhole");
    } else if state.needs_forwarder() || state.mtu.is_some() {
        let mtu = state.mtu.unwrap_or(FULL_MTU);
        let _ = writeln!(lines, "route replace {segment} dev {device} mtu {mtu} table {number}");
        let _ = writeln!(lines, "{rule} lookup {number}");
    }
    lines
}

fn number(from: &Cluster, to: &Cluster) -> usize {
    BASE + from.index() * crate::spec::MAX_CLUSTERS + to.index()
}

fn forwarder(layout: &Layout, device: &str, state: LinkState) -> Unit {
    let arguments =
        ["internal", "forward", device, &state.loss_percent.to_string(), &state.delay_ms.to_string()];
    let program = layout.programs().join("playground");
    let mut unit = Unit::new(&program, arguments.map(str::to_owned), &layout.underlay());
    unit.name = device.to_owned();
    unit
}

/// Nothing goes to the device any more, but what it holds back would be lost with it. The device outlives the process by
/// a moment, and must not be taken for the next one's.
fn stop_forwarder(router: &Place, forwarder: &Unit, device: &str) -> Result<()> {
    if !forwarder.processes(router).is_empty() {
        let running = Unit::load(&forwarder.directory, device)?;
        let delay = running.argv.last().and_then(|delay| delay.parse().ok()).unwrap_or(0);
        thread::sleep(Duration::from_millis(delay) + DRAIN);
        forwarder.kill(router)?;
    }
    let started = Instant::now();
    while router.output(&["ip", "link", "show", device], b"")?.status.success() {
        if started.elapsed() > Duration::from_secs(5) {
            return Err(Error::Timeout {
                what: format!("the device {device} did not go away"),
                seconds: 5,
                hint: "see `ip link` in the underlay".into(),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn start_forwarder(router: &Place, forwarder: &Unit, device: &str) -> Result<()> {
    create_dir(&forwarder.directory)?;
    // Only the log of this start can say why it failed.
    write(&forwarder.log(), "")?;
    forwarder.start(router)?;
    let started = Instant::now();
    while !router.output(&["ip", "link", "set", device, "up"], b"")?.status.success() {
        if started.elapsed() > Duration::from_secs(5) {
            return Err(Error::Timeout {
                what: format!("the forwarder of {device} did not start"),
                seconds: 5,
                hint: read(&forwarder.log())?.trim().to_owned(),
            });
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Cni, Spec};

    fn clusters() -> [Cluster; 2] {
        let (layout, spec) = (Layout::from_environment(), Spec::new(2, 1, Cni::None, &[]).unwrap());
        [Cluster::new("east", 0, &spec, &layout), Cluster::new("west", 1, &spec, &layout)]
    }

    #[test]
    fn rules_of_each_state() {
        let [east, west] = clusters();
        let text = |state| rules(&east, &west, "10.11.0.0/24", state, "dev");
        assert_eq!(text(LinkState::default()), "");
        assert_eq!(
            text(LinkState { down: true, ..LinkState::default() }),
            "rule add priority 10001 iif segment0 to 10.11.0.0/24 blackhole\n"
        );
        assert_eq!(
            text(LinkState { mtu: Some(1380), ..LinkState::default() }),
            "route replace 10.11.0.0/24 dev dev mtu 1380 table 10001\n\
             rule add priority 10001 iif segment0 to 10.11.0.0/24 lookup 10001\n"
        );
        assert!(text(LinkState { delay_ms: 5, ..LinkState::default() }).contains("mtu 1500 table 10001"));
    }

    #[test]
    fn states_out_of_range_are_refused() {
        for state in [
            LinkState { mtu: Some(1501), ..LinkState::default() },
            LinkState { loss_percent: 101, ..LinkState::default() },
            LinkState { delay_ms: 10_001, ..LinkState::default() },
        ] {
            assert!(matches!(state.check([Family::V4].into_iter()), Err(Error::Invalid(_))));
        }
    }

    #[test]
    fn the_least_mtu_is_that_of_the_families() {
        let refused = |mtu, families: &[Family]| {
            LinkState { mtu: Some(mtu), ..LinkState::default() }.check(families.iter().copied()).is_err()
        };
        assert!(refused(67, &[Family::V4]) && !refused(68, &[Family::V4]));
        for families in [&[Family::V6][..], &[Family::V4, Family::V6]] {
            assert!(refused(1279, families) && !refused(1280, families));
        }
    }
}
