//! The mesh daemon of one cluster: watches it once, and tells its nodes and the other clusters.

pub mod allocator;
pub mod authority;
pub mod config;
pub mod control;
pub mod controller;
pub mod findings;
pub mod health;
pub mod index;
pub mod leader;
pub mod member_store;
pub mod mesh;
pub mod mesh_peer;
pub mod node_store;
pub mod run;
pub mod serve;
pub mod standby;
pub mod status;
pub mod token_review;
pub mod watch;
