//! Programs that somebody else takes off a device are put back, and what that let through is told.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tombolo_loader::{AttachError, Datapath as Loaded};

use crate::netlink::{Netlink, NetlinkError};

/// For how long it is a problem that something was removed.
const MEMORY: Duration = Duration::from_hours(1);

/// Which devices have programs of ours, and how often others have removed some.
#[derive(Debug, Default)]
pub struct Guard {
    devices: Mutex<Devices>,
    put_back: AtomicU64,
    unjudged: AtomicU64,
}

#[derive(Debug, Default)]
struct Devices {
    /// Those of pods, with the packets that they had carried when last looked at.
    pods: BTreeMap<u32, Option<u64>>,
    /// The others.
    others: BTreeSet<u32>,
    /// When something was put back last.
    last: Option<Instant>,
}

impl Guard {
    /// How many programs have been put back.
    pub fn put_back(&self) -> u64 {
        self.put_back.load(Ordering::Relaxed)
    }

    /// How many packets pods' devices carried between the last look with their programs and the look that put these back: no
    /// more of them passed unjudged. A device that was removed from before the first look is not among them.
    pub fn unjudged(&self) -> u64 {
        self.unjudged.load(Ordering::Relaxed)
    }

    /// What others have done lately, one sentence.
    pub fn problem(&self) -> Option<String> {
        self.devices().last.filter(|last| last.elapsed() < MEMORY)?;
        Some(format!(
            "somebody has removed {} programs of tombolo from devices, and up to {} packets of pods have passed unjudged before \
             they were back: see the agent's log, and keep others (tc, bpftool, other agents) off these devices",
            self.put_back(),
            self.unjudged()
        ))
    }

    /// The pod's device has its programs.
    pub fn add_pod(&self, ifindex: u32) {
        self.devices().pods.insert(ifindex, None);
    }

    /// The pod's device is about to go.
    pub fn remove_pod(&self, ifindex: u32) {
        self.devices().pods.remove(&ifindex);
    }

    /// The programs of a device that is not a pod's have been attached, `new` of them where there was none.
    pub fn note_device(&self, ifindex: u32, name: &str, new: usize) {
        let is_first = self.devices().others.insert(ifindex);
        if !is_first && new > 0 {
            tracing::warn!(device = name, programs = new, "somebody had removed programs; they are back");
            self.count(new);
        }
    }

    /// The device is gone.
    pub fn remove_device(&self, ifindex: u32) {
        self.devices().others.remove(&ifindex);
    }

    /// Puts back what pods lack.
    pub async fn restore(&self, loaded: &Loaded, netlink: &Netlink) -> Result<(), NetlinkError> {
        let pods: Vec<u32> = self.devices().pods.keys().copied().collect();
        let mut restored = Vec::new();
        for ifindex in pods {
            match loaded.restore_pod(ifindex) {
                Ok(0) => {}
                Ok(programs) => restored.push((ifindex, programs)),
                // It went with its pod; the runtime says so later.
                Err(AttachError::Filter { source, .. }) if is_gone(&source) => {}
                Err(e) => tracing::warn!(error = %e, "cannot see to the programs of a pod"),
            }
        }
        let packets = netlink.packets().await?;
        for (ifindex, programs) in restored {
            let before = self.devices().pods.get(&ifindex).copied().flatten();
            let now = packets.get(&ifindex).copied();
            let passed = before.zip(now).map_or(0, |(before, now)| now.saturating_sub(before));
            tracing::warn!(
                ifindex,
                programs,
                passed_at_most = passed,
                "somebody had removed programs of a pod; they are back"
            );
            self.count(programs);
            self.unjudged.fetch_add(passed, Ordering::Relaxed);
        }
        for (ifindex, seen) in &mut self.devices().pods {
            *seen = packets.get(ifindex).copied();
        }
        Ok(())
    }

    fn count(&self, programs: usize) {
        self.devices().last = Some(Instant::now());
        self.put_back.fetch_add(u64::try_from(programs).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}
