//! Network policy as tables: selectors become bits, policies become bitmaps per port prefix.

mod bits;
mod compile;
mod ports;
mod tables;
mod verdict;

pub use bits::{BitState, SelectorBits, StoredBitsError};
pub use compile::{Compiled, Entries, Scope, compile, entries, selectors};
pub use ports::{PortPrefix, prefixes};
pub use tables::PolicyTables;
pub use verdict::{Traffic, allows};

#[cfg(test)]
mod tests;
