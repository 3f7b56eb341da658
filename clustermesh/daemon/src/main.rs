//! The mesh daemon of one cluster.

fn main() {}
