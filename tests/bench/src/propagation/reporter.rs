//! A process that says when it has seen an endpoint become ready, or cease to be.

use std::{
    io::{BufRead, BufReader, Write, stdout},
    process::{ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::process::Running;

/// Long for what takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a process says first.
const READY: &str = "ready";

/// The process; it ends when this is dropped.
pub struct Reporter {
    lines: Receiver<String>,
    input: ChildStdin,
    _process: Running,
}

/// What it says.
#[derive(Serialize, Deserialize)]
pub struct Seen {
    /// Which slice.
    pub slice: String,
    /// Whether its endpoint is ready.
    pub ready: bool,
    /// By the machine's monotonic clock, which all of its processes share.
    pub time: Duration,
}

impl Reporter {
    /// Starts it and waits until it looks.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Running(command.spawn().context("cannot start a part of the measurement")?);
        let input = process.0.stdin.take().context("the process has no input")?;
        let output = BufReader::new(process.0.stdout.take().context("the process has no output")?);
        let (tell, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let reporter = Self { lines, input, _process: process };
        let first = reporter.line()?;
        if first != READY { bail!("a part of the measurement says {first:?}") } else { Ok(reporter) }
    }

    /// Tells it what will come.
    pub fn expect(&mut self, ready: bool) -> anyhow::Result<()> {
        writeln!(self.input, "{ready}").context("a part of the measurement has ended")
    }

    /// When it saw the endpoint so.
    pub fn wait_for(&self, ready: bool) -> anyhow::Result<Duration> {
        loop {
            let seen: Seen = serde_json::from_str(&self.line()?)?;
            if seen.ready == ready {
                return Ok(seen.time);
            }
        }
    }

    /// All that it has said since it was asked last.
    pub fn all(&self) -> Vec<Seen> {
        self.lines.try_iter().filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    fn line(&self) -> anyhow::Result<String> {
        self.lines.recv_timeout(PATIENCE).context("what was written did not arrive")
    }
}

/// The process itself says that it looks from now on.
pub fn say_ready() -> anyhow::Result<()> {
    Ok(writeln!(stdout(), "{READY}")?)
}

/// The process itself says what it sees just now.
pub fn say_seen(slice: &str, ready: bool) -> anyhow::Result<()> {
    let seen = Seen { slice: slice.to_owned(), ready, time: monotonic()? };
    Ok(writeln!(stdout(), "{}", serde_json::to_string(&seen)?)?)
}

/// The machine's monotonic clock.
pub fn monotonic() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}
