//! The playground that tests share, brought up and ended by the commands that users have.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::interrupt;
use crate::plan::Stage;
use crate::registration::Family;

/// A playground that runs; it is ended when this is dropped.
pub struct Shared<'a> {
    root: &'a Path,
    ended: bool,
}

impl<'a> Shared<'a> {
    /// Ends the playground that runs, if any, and brings up the one of this stage, with its clusters east and west
    /// connected if it has two or more. `None` for the machine, on which no playground runs then.
    pub fn up(root: &'a Path, stage: Stage) -> Result<Option<Self>> {
        interrupt::own_playground();
        playground(root, &["down"])?;
        let Stage::Playground { family, clusters, nodes } = stage else {
            return Ok(None);
        };
        let shared = Self { root, ended: false };
        let before = output(&mut program(root, &["snapshot"]))?;
        let file = shared.before();
        std::fs::write(&file, before).with_context(|| format!("cannot write {}", file.display()))?;
        let (name, count, nodes) = (family.to_string(), clusters.to_string(), nodes.to_string());
        let mut up = vec!["up", "--cni", "tombolo", "--clusters", &count, "--nodes", &nodes];
        if family != Family::Dual {
            up.extend(["--ip-family", &name]);
        }
        playground(root, &up)?;
        if clusters > 1 {
            shared.connect()?;
        }
        Ok(Some(shared))
    }

    /// Ends it, and fails if something of it is left on the machine.
    pub fn down(mut self) -> Result<()> {
        self.ended = true;
        playground(self.root, &["down"])?;
        let before = self.before().display().to_string();
        playground(self.root, &["snapshot", "--since", &before])
    }

    /// Where that is kept which was on the machine before the playground came up.
    fn before(&self) -> PathBuf {
        self.root.join("target/before")
    }

    fn connect(&self) -> Result<()> {
        let playground = self.root.join("target/playground");
        let configs = ["east", "west"].map(|name| playground.join(format!("{name}.kubeconfig")));
        let path =
            format!("{}:{}", playground.join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut command = Command::new(self.root.join("target").join(host).join("release/tombolo"));
        command.env("KUBECONFIG", std::env::join_paths(configs)?).env("PATH", path);
        command.args(["connect", "--context", "east", "--destination-context", "west"]);
        run(&mut command)
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = playground(self.root, &["down"]);
        }
    }
}

fn playground(root: &Path, arguments: &[&str]) -> Result<()> {
    run(&mut program(root, arguments))
}

fn program(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(root.join("target/debug/playground"));
    command.args(arguments).current_dir(root).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Result<()> {
    interrupt::go_on();
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    interrupt::go_on();
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(output.stdout)
}
