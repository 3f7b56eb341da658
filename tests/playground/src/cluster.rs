//! One cluster of a playground: what tests and the command line do with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::address::ClusterAddresses;
use crate::layout::Layout;
use crate::node;
use crate::place::{Place, run_contained};
use crate::spec::{IpFamily, Spec};
use crate::unit::{self, Unit};
use crate::{Error, Result};

/// The place name of the control plane, beside the nodes' names.
pub const CONTROL_PLANE: &str = "control-plane";

/// A cluster of a playground.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: String,
    index: usize,
    nodes: usize,
    ip_family: IpFamily,
    layout: Layout,
}

impl Cluster {
    pub(crate) fn new(name: &str, index: usize, spec: &Spec, layout: &Layout) -> Self {
        let (nodes, ip_family) = (spec.nodes, spec.ip_family);
        Self { name: name.to_owned(), index, nodes, ip_family, layout: layout.clone() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its position in the playground, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The names of its nodes, which are the same in every cluster: node-1, node-2, …
    pub fn nodes(&self) -> Vec<String> {
        (1..=self.nodes).map(|number| format!("node-{number}")).collect()
    }

    /// Its addresses in each of its families.
    pub fn plans(&self) -> impl Iterator<Item = ClusterAddresses> + use<> {
        let index = self.index;
        self.ip_family.families().iter().map(move |&family| ClusterAddresses::new(index, family))
    }

    /// Its addresses in its first family.
    pub fn addresses(&self) -> ClusterAddresses {
        ClusterAddresses::new(self.index, self.ip_family.first())
    }

    /// The administrator's kubeconfig, usable from this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig(&self.name)
    }

    /// The playground's files.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Runs kubectl as administrator with `input` on standard input; anything but success is an error.
    pub fn kubectl(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let kubectl = self.layout.programs().join("kubectl").display().to_string();
        let config = self.kubeconfig().display().to_string();
        let argv: Vec<&str> = [kubectl.as_str(), "--kubeconfig", &config]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        run_contained(&self.layout, &argv, input)
    }

    /// Whether the API server says that it is ready.
    pub fn is_api_ready(&self) -> Result<bool> {
        match self.kubectl(&["get", "--raw=/readyz", "--request-timeout=5s"], b"") {
            Ok(_) => Ok(true),
            Err(Error::Command { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Runs `argv` in a node (or `control-plane`) to its end, whatever its exit code.
    pub fn exec(&self, node: &str, argv: &[&str]) -> Result<Output> {
        self.place(node)?.output(argv, b"")
    }

    /// The command that runs `argv` in a node with the caller's standard streams.
    pub fn command(&self, node: &str, argv: &[String]) -> Result<Command> {
        self.place(node)?.command("exec", argv)
    }

    /// Loads an image archive into all nodes.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        self.nodes().iter().try_for_each(|node| node::import(&self.node(node)?, archive))
    }

    /// Kills a component with SIGKILL; it stays dead until [`Self::restart`].
    pub fn kill(&self, node: &str, component: &str) -> Result<()> {
        self.unit(node, component)?.kill(&self.place(node)?)
    }

    /// Stops a component with SIGSTOP.
    pub fn freeze(&self, node: &str, component: &str) -> Result<()> {
        self.unit(node, component)?.signal(&self.place(node)?, Signal::SIGSTOP)
    }

    /// Lets a frozen component go on.
    pub fn thaw(&self, node: &str, component: &str) -> Result<()> {
        self.unit(node, component)?.signal(&self.place(node)?, Signal::SIGCONT)
    }

    /// Starts a component as it was started first, killing it before when it runs.
    pub fn restart(&self, node: &str, component: &str) -> Result<()> {
        self.unit(node, component)?.restart(&self.place(node)?)
    }

    /// The node or control plane of this name.
    pub fn place(&self, name: &str) -> Result<Place> {
        if name == CONTROL_PLANE {
            return self.control_plane();
        }
        if !self.nodes().iter().any(|node| node == name) {
            let known = self.nodes().join(", ");
            return Err(Error::Invalid(format!(
                "node is {name:?}; {} has {known} and control-plane",
                self.name
            )));
        }
        self.node(name)
    }

    pub(crate) fn control_plane(&self) -> Result<Place> {
        Place::control_plane(&self.layout, &self.name)
    }

    pub(crate) fn node(&self, node: &str) -> Result<Place> {
        Place::node(&self.layout, &self.name, node)
    }

    /// Every place with every component: name of the place, name of the component, whether it runs.
    pub fn components(&self) -> Result<Vec<(String, String, bool)>> {
        let mut all = Vec::new();
        for name in std::iter::once(CONTROL_PLANE.to_owned()).chain(self.nodes()) {
            let place = self.place(&name)?;
            let directory = self.directory(&name);
            for component in unit::names(&directory) {
                let runs = !Unit::load(&directory, &component)?.processes(&place).is_empty();
                all.push((name.clone(), component, runs));
            }
        }
        Ok(all)
    }

    /// Fails when a part of the control plane has died, with the end of its log.
    pub(crate) fn control_plane_alive(&self) -> Result<()> {
        let place = self.control_plane()?;
        let directory = self.layout.control_plane(&self.name);
        for component in unit::names(&directory) {
            let unit = Unit::load(&directory, &component)?;
            if place.unit_cgroup(&component).processes().is_empty() {
                let log = crate::layout::read(&unit.log()).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(Error::Command {
                    command: format!("{component} of {}", self.name),
                    reason: format!(
                        "it ended; the end of {}:\n{}",
                        unit.log().display(),
                        tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                    ),
                });
            }
        }
        Ok(())
    }

    fn unit(&self, node: &str, component: &str) -> Result<Unit> {
        self.place(node)?;
        Unit::load(&self.directory(node), component)
    }

    fn directory(&self, place: &str) -> PathBuf {
        if place == CONTROL_PLANE {
            self.layout.control_plane(&self.name)
        } else {
            self.layout.node(&self.name, place)
        }
    }
}
