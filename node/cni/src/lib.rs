//! The CNI plugin (CNI specification 1.1.0) as a library: what it reads, what it prints, and the protocol that it
//! speaks with the node agent. The binary is only `main.rs`.
//!
//! Everything is validated here, before the agent hears of it. The plugin itself changes nothing on the node but
//! one thing: a DEL that finds no agent is left in a queue for it (see [`queue`]).

pub mod client;
pub mod command;
pub mod config;
pub mod environment;
pub mod failure;
pub mod name;
pub mod output;
pub mod protocol;
pub mod queue;

pub use failure::Failure;
