//! The product's command line as a user calls it: one kubeconfig context per cluster, helm in PATH.

use std::process::{Command, Output};

use anyhow::ensure;
use tombolo_playground::{Cluster, Playground, layout::Layout};

use crate::machine::{product, text};

/// Calls `tombolo` for the cluster of this name, whatever its exit code.
pub fn tombolo(context: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let layout = Layout::from_environment();
    let clusters = Playground::attach(&layout)?.clusters();
    let configs: Vec<_> = clusters.iter().map(Cluster::kubeconfig).collect();
    let mut command = Command::new(product("tombolo")?);
    command
        .env("KUBECONFIG", std::env::join_paths(configs)?)
        .env("PATH", format!("{}:/usr/bin:/bin", layout.programs().display()))
        .args(arguments)
        .args(["--context", context]);
    Ok(command.output()?)
}

/// What a call prints that must succeed.
pub fn succeeds(context: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = tombolo(context, arguments)?;
    ensure!(output.status.success(), "tombolo {arguments:?} for {context}: {}", text(&output));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Fails unless the call failed with one line on standard error that has all of these words, and printed nothing else.
pub fn refused(output: &Output, words: &[&str]) -> anyhow::Result<()> {
    let said = text(output);
    ensure!(!output.status.success(), "accepted: {said}");
    ensure!(output.stdout.is_empty() && said.trim_end().lines().count() == 1, "more than a sentence: {said}");
    for word in words {
        ensure!(said.contains(word), "{word:?} is not in: {said}");
    }
    Ok(())
}
