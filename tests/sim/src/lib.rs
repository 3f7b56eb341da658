//! Deterministic simulation of many clusters: the real membership core on a virtual clock, over a network and disks
//! that lose, delay, reorder, repeat and crash as a seed decides. What must hold is checked after every step.

mod checks;
mod faults;
mod network;
mod node;
mod workload;
mod world;

pub use self::{
    faults::Mutant,
    world::{Report, Violation, run},
};
