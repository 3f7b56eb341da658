//! Builds, embeds, loads, attaches and pins the BPF programs; typed maps.
