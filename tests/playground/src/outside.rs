//! The world outside of the clusters: hosts behind the underlay router that know no pods.
//!
//! They are on a segment of their own, each with several addresses, and reach whatever the router reaches: the
//! nodes. What comes from a pod's own address they cannot answer.

use std::net::IpAddr;
use std::process::{Command, Output};

use crate::Result;
use crate::address::Family;
use crate::layout::Layout;
use crate::place::Place;
use crate::spec::Spec;

/// How many there are.
pub const HOSTS: usize = 2;
/// How many addresses each has in a family.
pub const ADDRESSES: usize = 3;

/// A host outside of the clusters.
#[derive(Debug, Clone)]
pub struct Outside {
    index: usize,
    families: &'static [Family],
    layout: Layout,
}

impl Outside {
    /// All of them.
    pub(crate) fn all(spec: &Spec, layout: &Layout) -> Vec<Self> {
        let families = spec.ip_family.families();
        (0..HOSTS).map(|index| Self { index, families, layout: layout.clone() }).collect()
    }

    /// Its name: outside-1, outside-2.
    pub fn name(&self) -> String {
        format!("outside-{}", self.index + 1)
    }

    /// Its addresses of a family, none if the playground does not have it.
    pub fn addresses(&self, family: Family) -> Vec<IpAddr> {
        let first = self.index * 10 + 11;
        let numbers = (first..first + ADDRESSES).filter_map(|number| u8::try_from(number).ok());
        numbers.filter(|_| self.families.contains(&family)).map(|number| family.outside(number)).collect()
    }

    /// Runs `argv` in it to its end, whatever its exit code.
    pub fn exec(&self, argv: &[&str]) -> Result<Output> {
        self.place()?.output(argv, b"")
    }

    /// The command that runs `argv` in it with the caller's standard streams.
    pub fn command(&self, argv: &[String]) -> Result<Command> {
        self.place()?.command("exec", argv)
    }

    pub(crate) fn place(&self) -> Result<Place> {
        Place::outside(&self.layout, &self.name())
    }
}
