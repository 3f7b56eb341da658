//! Deterministic simulation of many clusters: the real cores on a virtual clock, over a network and disks that lose,
//! delay, reorder, repeat and crash as a seed decides, with members that lie. What must hold is checked after every step.

mod checks;
mod faults;
mod network;
mod node;
pub mod replication;
mod scenario;
mod workload;
mod world;

pub use self::{
    faults::Mutant,
    scenario::{Scenario, Trouble},
    world::{Report, Violation, run},
};
