//! One cluster of a playground: what tests and the command line do with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::address::ClusterAddresses;
use crate::layout::Layout;
use crate::node;
use crate::place::{Place, run_contained};
use crate::spec::Spec;
use crate::unit::{self, Unit};
use crate::{Error, Result};

/// The place name of the first control plane, beside the nodes' names; further ones have a number from 2 behind it.
pub const CONTROL_PLANE: &str = "control-plane";
const NODE: &str = "node-";

/// A cluster of a playground.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: String,
    index: usize,
    spec: Spec,
    layout: Layout,
}

impl Cluster {
    pub(crate) fn new(name: &str, index: usize, spec: &Spec, layout: &Layout) -> Self {
        Self { name: name.to_owned(), index, spec: spec.clone(), layout: layout.clone() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its position in the playground, counted from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The shape of the playground when it was brought up.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// The names of the nodes that it has now: node-1, node-2, … A node is there as long as its directory.
    pub fn nodes(&self) -> Vec<String> {
        let entries = fs::read_dir(self.layout.root().join(&self.name)).into_iter().flatten().flatten();
        let mut indices: Vec<usize> =
            entries.filter_map(|entry| index_of(&entry.file_name().to_string_lossy())).collect();
        indices.sort_unstable();
        indices.into_iter().map(Self::node_name).collect()
    }

    /// The position of a node in the address plan, counted from 0.
    pub fn node_index(&self, node: &str) -> Result<usize> {
        index_of(node).filter(|_| self.nodes().iter().any(|known| known == node)).ok_or_else(|| {
            let known = self.nodes().join(", ");
            Error::Invalid(format!("node is {node:?}; {} has {known}", self.name))
        })
    }

    /// The names of its control planes: control-plane, control-plane-2, …
    pub fn control_planes(&self) -> Vec<String> {
        let further = (2..=self.spec.control_planes).map(|number| format!("{CONTROL_PLANE}-{number}"));
        std::iter::once(CONTROL_PLANE.to_owned()).chain(further).collect()
    }

    /// Its addresses in each of its families.
    pub fn plans(&self) -> impl Iterator<Item = ClusterAddresses> + use<> {
        let index = self.index;
        self.spec.ip_family.families().iter().map(move |&family| ClusterAddresses::new(index, family))
    }

    /// Its addresses in its first family.
    pub fn addresses(&self) -> ClusterAddresses {
        ClusterAddresses::new(self.index, self.spec.ip_family.first())
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
        let planes = self.control_planes();
        if !self.nodes().iter().chain(&planes).any(|known| known == name) {
            let known = self.nodes().join(", ");
            return Err(Error::Invalid(format!(
                "node is {name:?}; {} has {known} and {}",
                self.name,
                planes.join(", ")
            )));
        }
        Place::of_cluster(&self.layout, &self.name, name)
    }

    /// The place of a node; a control plane is none.
    pub(crate) fn node(&self, node: &str) -> Result<Place> {
        self.node_index(node)?;
        Place::of_cluster(&self.layout, &self.name, node)
    }

    pub(crate) fn node_name(index: usize) -> String {
        format!("{NODE}{}", index + 1)
    }

    /// Every place with every component: name of the place, name of the component, whether it runs.
    pub fn components(&self) -> Result<Vec<(String, String, bool)>> {
        let mut all = Vec::new();
        for name in self.control_planes().into_iter().chain(self.nodes()) {
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
        for name in self.control_planes() {
            let (place, directory) = (self.place(&name)?, self.directory(&name));
            for component in unit::names(&directory) {
                let unit = Unit::load(&directory, &component)?;
                if place.unit_cgroup(&component).processes().is_empty() {
                    return Err(self.ended(&unit));
                }
            }
        }
        Ok(())
    }

    fn ended(&self, unit: &Unit) -> Error {
        let log = crate::layout::read(&unit.log()).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(5).collect();
        Error::Command {
            command: format!("{} of {}", unit.name, self.name),
            reason: format!(
                "it ended; the end of {}:\n{}",
                unit.log().display(),
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            ),
        }
    }

    fn unit(&self, node: &str, component: &str) -> Result<Unit> {
        self.place(node)?;
        Unit::load(&self.directory(node), component)
    }

    /// The directory of a node or a control plane.
    pub(crate) fn directory(&self, place: &str) -> PathBuf {
        self.layout.node(&self.name, place)
    }
}

fn index_of(node: &str) -> Option<usize> {
    let number: usize = node.strip_prefix(NODE)?.parse().ok()?;
    number.checked_sub(1).filter(|&index| Cluster::node_name(index) == node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Cni;

    #[test]
    fn nodes_are_those_with_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let spec = Spec { control_planes: 2, ..Spec::new(1, 2, Cni::None, &[]).unwrap() };
        let cluster = Cluster::new("east", 0, &spec, &Layout::at(root.path()));
        assert!(cluster.nodes().is_empty());
        for name in ["node-10", "node-2", "node-0", "node-02", "node-x", "control-plane", "control-plane-2"] {
            fs::create_dir_all(cluster.directory(name)).unwrap();
        }
        assert_eq!(cluster.nodes(), ["node-2", "node-10"]);
        assert_eq!(cluster.node_index("node-10").unwrap(), 9);
        let error = cluster.node_index("node-1").unwrap_err().to_string();
        assert_eq!(error, "node is \"node-1\"; east has node-2, node-10");
        assert_eq!(cluster.control_planes(), ["control-plane", "control-plane-2"]);
    }
}
