//! Our end: a backend of a service in the maps of a node.

use std::{
    io::stdin,
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use nix::sys::prctl::set_timerslack;
use tombolo_abi::{
    Address, BackendKey, BackendValue, ServiceKey, ServiceValue, SlotKey, SlotValue, v4_mapped,
};
use tombolo_loader::{DEFAULT_PIN_DIR, Hash, Maps, Table, TableError};

use super::reporter::{say_ready, say_seen};

/// How often the maps are looked at: often against milliseconds, seldom enough to leave the CPU to what is measured.
const INTERVAL: Duration = Duration::from_micros(50);
const PATIENCE: Duration = Duration::from_secs(15);
const TCP: u8 = 6;

/// What the harness in the node looks for.
#[derive(clap::Args)]
pub struct Wanted {
    pub(super) service: SocketAddr,
    pub(super) backend: SocketAddr,
}

impl Wanted {
    /// The harness: for each line of standard input, says when the backend is there (`true`) or gone (`false`).
    pub fn report(&self) -> anyhow::Result<()> {
        let services = Services::open()?;
        say_ready()?;
        for line in stdin().lines() {
            let (wanted, started) = (line?.parse()?, Instant::now());
            while services.has(self)? != wanted {
                ensure!(started.elapsed() < PATIENCE, "{} never becomes {wanted}", self.backend);
                thread::sleep(INTERVAL);
            }
            say_seen("ours", wanted)?;
        }
        Ok(())
    }
}

struct Services {
    service: Hash<ServiceKey, ServiceValue>,
    slot: Hash<SlotKey, SlotValue>,
    backend: Hash<BackendKey, BackendValue>,
}

/// Tells of every backend that comes or goes, by its place among those wanted.
pub(super) fn follow(
    wanted: &[Wanted],
    tell: impl Fn(usize, bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let services = Services::open()?;
    let mut known = wanted.iter().map(|one| services.has(one)).collect::<Result<Vec<_>, _>>()?;
    say_ready()?;
    loop {
        for (n, (one, known)) in wanted.iter().zip(&mut known).enumerate() {
            let now = services.has(one)?;
            if now != *known {
                tell(n, now)?;
                *known = now;
            }
        }
        thread::sleep(INTERVAL);
    }
}

impl Services {
    fn open() -> anyhow::Result<Self> {
        // Or else the kernel adds as much again to each pause.
        set_timerslack(1)?;
        let maps = Maps::newest(Path::new(DEFAULT_PIN_DIR));
        Ok(Self { service: maps.service()?, slot: maps.backend_slot()?, backend: maps.backend()? })
    }

    /// Whether the programs would find the backend.
    fn has(&self, wanted: &Wanted) -> Result<bool, TableError> {
        let key = ServiceKey::new(mapped(wanted.service.ip()), wanted.service.port(), TCP);
        let Some(service) = self.service.get(&key)? else { return Ok(false) };
        let (address, port) = (mapped(wanted.backend.ip()), wanted.backend.port());
        for slot in 0..service.count() {
            let Some(slot) = self.slot.get(&SlotKey::new(service.id(), slot))? else { continue };
            let backend = self.backend.get(&BackendKey::new(slot.backend()))?;
            if backend.is_some_and(|backend| backend.address() == address && backend.port() == port) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn mapped(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => v4_mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}
