//! Pure logic of the node agent: IPAM, policy, services, routes, desired state and reconciling.
//!
//! Nothing here does I/O: records and local endpoints go in, desired tables come out ([`state`]), and
//! [`reconcile`] says which writes bring a target to them. Time is an argument.

pub mod addresses;
pub mod connections;
pub mod endpoints;
pub mod ipam;
pub mod nat;
pub mod policy;
pub mod problem;
pub mod reconcile;
pub mod routes;
pub mod services;
pub mod state;
pub mod table;
pub mod topology;
pub mod tunnel;
