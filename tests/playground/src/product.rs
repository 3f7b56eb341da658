//! The product on a cluster, installed as users do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::control_plane;
use crate::layout::checkout;
use crate::node;
use crate::progress::Progress;
use crate::{Error, Result};

/// Loads the images into all nodes and installs it; returns when all its pods are there.
pub fn install(cluster: &Cluster, progress: Progress) -> Result<()> {
    let program = program()?;
    for archive in archives()? {
        progress.say(&format!("{}: loading {}", cluster.name(), archive.display()));
        cluster.load_image(&archive)?;
    }
    progress.say(&format!("{}: installing tombolo", cluster.name()));
    run(&program, cluster)
}

/// Loads the images into one node.
pub fn load_images(cluster: &Cluster, node: &str) -> Result<()> {
    let place = cluster.node(node)?;
    archives()?.iter().try_for_each(|archive| node::import(&place, archive))
}

fn archives() -> Result<Vec<PathBuf>> {
    let images = checkout().join("target/images");
    let entries = fs::read_dir(&images).map_err(Error::io("list (`make image` fills it)", &images))?;
    let is_archive = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "tar");
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_archive).collect())
}

fn program() -> Result<PathBuf> {
    let target = checkout().join("target");
    fs::read_dir(&target)
        .map_err(Error::io("list", &target))?
        .flatten()
        .map(|entry| entry.path().join("release/tombolo"))
        .chain([target.join("release/tombolo"), target.join("debug/tombolo")])
        .find(|path| path.is_file())
        .ok_or_else(|| Error::Missing("the command line is not built; `make image` builds it".into()))
}

fn run(program: &Path, cluster: &Cluster) -> Result<()> {
    let programs = cluster.layout().programs();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(program);
    command
        .args(["install", "--cluster-name", cluster.name()])
        .args(["--cluster-id", &(cluster.index() + 1).to_string()])
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .env("PATH", path);
    if cluster.control_planes().len() > 1 {
        command.args(["--api-server", &control_plane::inner_address(cluster).to_string()]);
    }
    let output = command.output().map_err(Error::io("run", program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("{} install", program.display()),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
