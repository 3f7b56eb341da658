//! Builds, embeds, loads, attaches and pins the BPF programs; typed maps.
//!
//! Everything lives under one directory on a BPF filesystem: maps by their names, links under `links/`; the programs of
//! pods are held by their devices. Programs keep running and maps keep their content without any process. [`Datapath::load`] takes over what it finds there, and
//! attaching replaces a running program in one step, so that no packet passes in between.

mod attach;
mod datapath;
mod events;
pub mod features;
mod filter;
mod layout;
mod maps;
mod object;
mod pins;
mod sys;
mod table;
mod test_run;

pub use attach::AttachError;
pub use datapath::{Datapath, LoadError, ProgramStats};
pub use events::EventReader;
pub use maps::{Maps, drops, metrics};
pub use pins::{DEFAULT_PIN_DIR, PinDirError, unload};
pub use table::{Hash, Table, TableError, Trie, TrieKey};
pub use test_run::{TestRun, TestRunError};
