//! Running one program of tests to its end, with all that it prints kept in a file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::interrupt;
use crate::judge::Exit;

/// A program of tests, and where it runs.
#[derive(Debug)]
pub struct Program<'a> {
    /// The program.
    pub path: &'a Path,
    /// Its package's directory, where cargo would run it.
    pub directory: &'a Path,
}

/// What a run of it was.
#[derive(Debug)]
pub struct Run {
    /// How it ended.
    pub exit: Exit,
    /// How long it took.
    pub took: Duration,
    /// Everything that it printed.
    pub output: String,
    /// The file that keeps it.
    pub log: PathBuf,
}

impl Program<'_> {
    /// Runs it with these arguments; kills it when it has not ended after `patience`.
    pub fn run(&self, arguments: &[&str], log: PathBuf, patience: Duration) -> Result<Run> {
        if let Some(directory) = log.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = file.try_clone().context("cannot share a log")?;
        interrupt::go_on();
        let started = Instant::now();
        let mut child = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot run {}", self.path.display()))?;
        let exit = loop {
            if let Some(status) = child.try_wait().context("cannot wait for a test")? {
                break if status.success() { Exit::Success } else { Exit::Failure };
            }
            if started.elapsed() > patience {
                child.kill().context("cannot kill a test")?;
                child.wait().context("cannot wait for a test")?;
                break Exit::Killed;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let took = started.elapsed();
        let output = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        Ok(Run { exit, took, output: String::from_utf8_lossy(&output).into_owned(), log })
    }

    /// The names of its tests: all, or those that it leaves out unless it is asked for them.
    pub fn list(&self, ignored: bool) -> Result<Vec<String>> {
        let words = ["--list", "--format", "terse", "--ignored"];
        let words = if ignored { &words[..] } else { &words[..3] };
        interrupt::go_on();
        let output = self.command(words).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", self.path.display()))?;
        ensure!(output.status.success(), "{} cannot list its tests: {}", self.path.display(), output.status);
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.path);
        command.args(arguments).current_dir(self.directory).env("CARGO_MANIFEST_DIR", self.directory);
        command
    }
}
