//! Builds, embeds, loads, attaches and pins the BPF programs; typed maps.
//!
//! Everything lives under one directory on a BPF filesystem: maps under `generation-N/`, links under `links/`; the programs
//! of pods are held by their devices. Programs keep running and maps keep their content without any process.
//! [`Datapath::load`] takes over what it finds there, and attaching replaces a running program in one step, so that no
//! packet passes in between.

mod attach;
mod carry;
mod conversion;
mod datapath;
mod description;
mod device;
mod events;
pub mod features;
mod filter;
mod generation;
mod handover;
mod layout;
mod maps;
mod memory;
mod netlink;
mod object;
mod pins;
mod sys;
mod table;
mod test_run;

pub use attach::AttachError;
pub use carry::{Carried, CarryError};
pub use conversion::{Conversion, ConversionError, PlanError};
pub use datapath::{Datapath, LoadError, ProgramStats};
pub use description::{Description, DescriptionError, FieldDescription, MapDescription, RecordDescription};
pub use events::EventReader;
pub use generation::GenerationError;
pub use handover::HandoverError;
pub use maps::{Maps, drops, metrics};
pub use memory::MemoryError;
pub use pins::{DEFAULT_PIN_DIR, PinDirError, unload};
pub use table::{Hash, Table, TableError, Trie};
pub use test_run::{TestRun, TestRunError};
