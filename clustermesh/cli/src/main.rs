//! The command line of tombolo.

fn main() {}
