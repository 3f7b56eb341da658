//! The machines behind a cluster: their processes, components and shells.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, bail, ensure};
use tombolo_playground::{
    Cluster, Outside, Playground,
    layout::{Layout, checkout},
};

/// The cluster of this name as the playground has it.
pub fn machines(cluster: &str) -> anyhow::Result<Cluster> {
    Ok(Playground::attach(&Layout::from_environment())?.cluster(cluster)?)
}

/// The processes of a node, those in its pods too, that run a program of this name. Nodes share the numbers of
/// processes, so names alone would find those of other nodes.
pub fn processes(cluster: &Cluster, node: &str, program: &str) -> anyhow::Result<Vec<i32>> {
    let runs = |pid: &i32| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with(Path::new(program)))
    };
    Ok(cluster.place(node)?.cgroup().all_processes().into_iter().filter(runs).collect())
}

/// [`processes`] of all nodes of a cluster.
pub fn processes_of_all(cluster: &Cluster, program: &str) -> anyhow::Result<Vec<i32>> {
    let all: Result<Vec<_>, _> =
        cluster.nodes().iter().map(|node| processes(cluster, node, program)).collect();
    Ok(all?.concat())
}

/// Sends a signal (`KILL`, `STOP`, …) to these processes.
pub fn signal(pids: &[i32], signal: &str) -> anyhow::Result<()> {
    ensure!(!pids.is_empty(), "no process to send SIG{signal} to");
    let status = Command::new("kill")
        .arg(format!("-{signal}"))
        .args(pids.iter().map(ToString::to_string))
        .status()
        .context("cannot run kill")?;
    ensure!(status.success(), "cannot send SIG{signal} to {pids:?}");
    Ok(())
}

/// The standard output of a command in a node, which must succeed.
pub fn run(cluster: &Cluster, node: &str, argv: &[&str]) -> anyhow::Result<String> {
    let output = cluster.exec(node, argv)?;
    ensure!(output.status.success(), "{argv:?} in {node}: {}", text(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Everything that a command printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The test program as a file that every node can run: that of the pod of this name, for as long as the pod lives.
pub fn testpod(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    let variable = format!("POD_NAME={pod}");
    for node in cluster.nodes() {
        for pid in processes(cluster, &node, "testpod")? {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            if environment.split(|&byte| byte == 0).any(|entry| entry == variable.as_bytes()) {
                return Ok(format!("/proc/{pid}/exe"));
            }
        }
    }
    bail!("pod {pod} does not run")
}

/// A binary of the product as `make image` built it.
pub fn product(name: &str) -> anyhow::Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let path = checkout().join("target").join(host).join("release").join(name);
    ensure!(path.is_file(), "{} is missing: run `make image`", path.display());
    Ok(path)
}

/// The host of this name that is outside of all clusters, and which only nodes reach.
pub fn outside(name: &str) -> anyhow::Result<Outside> {
    Ok(Playground::attach(&Layout::from_environment())?.outside(name)?)
}

/// A program that runs in a host outside of the clusters until this is dropped.
pub struct Background(Child);

impl Background {
    /// Starts it.
    pub fn start(host: &Outside, argv: &[&str]) -> anyhow::Result<Self> {
        let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
        let mut command = host.command(&argv)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("cannot start {argv:?} in {}", host.name()))?))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
