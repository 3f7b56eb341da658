//! Nodes that join, leave and restart while their cluster runs.

use std::fs;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::control_plane::Keys;
use crate::layout::create_dir;
use crate::lock::Lock;
use crate::place::{Isolation, Place};
use crate::progress::Progress;
use crate::spec::{Cni, MAX_NODES};
use crate::underlay::{self, Host};
use crate::unit::{self, Unit};
use crate::{Error, Result, cni, node, product, teardown};

/// How long another playground command may hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);
/// Programs of a node that are not programs of its disk: a reboot takes them away.
const TRANSIENT: [&str; 1] = ["tun0"];

impl Cluster {
    /// Adds a node with the next free number, and returns its name when it is Ready (where no network plugin was
    /// asked for, when it has registered).
    pub fn add_node(&self, progress: Progress) -> Result<String> {
        let _lock = Lock::take(LOCK_PATIENCE, progress)?;
        let indices: Vec<usize> = self.nodes().iter().filter_map(|node| self.node_index(node).ok()).collect();
        let index = (0..MAX_NODES).find(|index| !indices.contains(index)).ok_or_else(|| {
            Error::Invalid(format!("{} has {MAX_NODES} nodes, the most that a cluster can have", self.name()))
        })?;
        let name = Self::node_name(index);
        self.power_on(index)?;
        let keys = Keys::load(self)?;
        node::start_runtime(self, &name)?;
        node::start(self, &name, &keys)?;
        let prefixes = cni::pod_prefixes(self)?;
        cni::route_control_planes(self, &prefixes)?;
        progress.say(&format!("{}: {name} registered", self.name()));
        match self.spec().cni {
            Cni::None => return Ok(name),
            Cni::Bridge => cni::install_bridge(self, &prefixes)?,
            Cni::Tombolo => product::load_images(self, &name)?,
        }
        self.wait_node(&name)?;
        Ok(name)
    }

    /// Takes a node away as if its power had failed, and its Node object with it. Its disk is gone, too.
    pub fn remove_node(&self, node: &str) -> Result<()> {
        let _lock = Lock::take(LOCK_PATIENCE, Progress::start())?;
        self.power_off(node)?;
        self.kubectl(&["delete", "node", node, "--ignore-not-found", "--timeout=60s"], b"")?;
        let directory = self.directory(node);
        fs::remove_dir_all(&directory).map_err(Error::io("remove", &directory))
    }

    /// Lets the power of a node fail and come back: its network, its /run and all its processes are gone, its disk
    /// is as it was. It has the same name and addresses, and what runs on it from the start runs again, when this
    /// returns; its pods do not yet.
    pub fn reboot_node(&self, node: &str) -> Result<()> {
        let _lock = Lock::take(LOCK_PATIENCE, Progress::start())?;
        self.power_off(node)?;
        self.power_on(self.node_index(node)?)?;
        let place = self.node(node)?;
        let directory = self.directory(node);
        if self.spec().cni == Cni::Bridge {
            cni::route_node(self, node, &cni::pod_prefixes(self)?)?;
        }
        node::restart_runtime(self, node)?;
        for unit in unit::names(&directory).iter().filter(|name| *name != "containerd") {
            Unit::load(&directory, unit)?.start(&place)?;
        }
        Ok(())
    }

    /// Makes the directory of the node at `index` and starts its namespaces, which then must be connected.
    pub(crate) fn start_place(&self, index: usize) -> Result<Host> {
        let name = Self::node_name(index);
        let directory = self.directory(&name);
        create_dir(&directory)?;
        let place = self.node(&name)?;
        let nameserver = self.addresses().router();
        place.start(&Isolation::Node { hostname: name, directory, nameserver })?;
        Ok(Host::node(self, index, place))
    }

    fn power_on(&self, index: usize) -> Result<()> {
        let host = self.start_place(index)?;
        underlay::connect(&Place::underlay(self.layout())?, &[host])
    }

    /// The wire first, so that nobody is told that the node ends.
    fn power_off(&self, node: &str) -> Result<()> {
        let place = self.node(node)?;
        let router = Place::underlay(self.layout())?;
        underlay::disconnect(&router, self.index(), self.node_index(node)?)?;
        teardown::end_cgroup(place.cgroup())?;
        let directory = self.directory(node);
        for unit in unit::names(&directory).iter().filter(|name| TRANSIENT.contains(&name.as_str())) {
            Unit::load(&directory, unit)?.forget()?;
        }
        Ok(())
    }

    fn wait_node(&self, node: &str) -> Result<()> {
        let name = format!("node/{node}");
        self.kubectl(&["wait", &name, "--for=condition=Ready", "--timeout=120s"], b"").map(drop)
    }
}
