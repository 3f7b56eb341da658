//! Deterministic simulation of many clusters.
