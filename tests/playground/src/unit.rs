//! Units: the long-running programs of a place, each in a cgroup of its own.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::layout::{create_dir, read, write};
use crate::place::{Place, spawn};
use crate::{Error, Result};

/// How to start a unit, kept in a file so that it can be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The program's name, which is the unit's.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Additions to the environment.
    pub env: BTreeMap<String, String>,
    /// The directory of the place: the log and this description go there.
    pub directory: PathBuf,
}

impl Unit {
    /// A unit that runs `program` (a path) with `arguments`.
    pub fn new(program: &Path, arguments: impl IntoIterator<Item = String>, directory: &Path) -> Self {
        let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let argv = std::iter::once(program.display().to_string()).chain(arguments).collect();
        Self { name, argv, env: BTreeMap::new(), directory: directory.to_path_buf() }
    }

    /// Reads back how the unit `name` was started in the place with this directory.
    pub fn load(directory: &Path, name: &str) -> Result<Self> {
        let path = description(directory, name);
        if !path.exists() {
            return Err(Error::Invalid(format!(
                "component is {name:?}, but {} runs only {}",
                directory.display(),
                names(directory).join(", ")
            )));
        }
        serde_json::from_str(&read(&path)?)
            .map_err(|cause| Error::Json { what: path.display().to_string(), cause })
    }

    /// The file that its output goes to.
    pub fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// Starts it; it outlives the caller.
    pub fn start(&self, place: &Place) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|cause| Error::Json { what: self.name.clone(), cause })?;
        write(&description(&self.directory, &self.name), text)?;
        let log = self.log();
        let output =
            OpenOptions::new().create(true).append(true).open(&log).map_err(Error::io("open", &log))?;
        let errors = output.try_clone().map_err(Error::io("open", &log))?;
        let mut command = place.command(&self.name, &self.argv)?;
        let temporary = self.directory.join("tmp");
        create_dir(&temporary)?;
        command.env("TMPDIR", temporary).env("TOMBOLO_NEW_SESSION", "1").envs(&self.env);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let mut child = spawn(&mut command)?;
        while place.unit_cgroup(&self.name).processes().is_empty() {
            let status = child.try_wait().map_err(Error::io("wait for", &self.name))?;
            if let Some(status) = status {
                return Err(Error::Command {
                    command: self.argv.join(" "),
                    reason: format!("{status}; see {}", log.display()),
                });
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Its own processes, without those that it started as other programs (shims of containerd).
    pub fn processes(&self, place: &Place) -> Vec<i32> {
        let Some(program) = self.argv.first().and_then(|p| fs::canonicalize(p).ok()) else {
            return Vec::new();
        };
        let is_it = |pid: &i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program);
        place.unit_cgroup(&self.name).processes().into_iter().filter(is_it).collect()
    }

    /// Sends a signal to its own processes; an error when there are none.
    pub fn signal(&self, place: &Place, signal: Signal) -> Result<()> {
        let pids = self.processes(place);
        if pids.is_empty() {
            return Err(Error::Missing(format!(
                "{} is not running; `playground restart` starts it",
                self.name
            )));
        }
        for pid in pids {
            kill(Pid::from_raw(pid), signal).map_err(Error::system(format!("signal {}", self.name)))?;
        }
        Ok(())
    }

    /// Kills it with SIGKILL and returns when it is gone.
    pub fn kill(&self, place: &Place) -> Result<()> {
        self.signal(place, Signal::SIGKILL)?;
        let started = Instant::now();
        while !self.processes(place).is_empty() {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(Error::Timeout {
                    what: format!("{} did not end", self.name),
                    seconds: 10,
                    hint: format!("its processes are {:?}", self.processes(place)),
                });
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Forgets that it was started here; it must not run.
    pub fn forget(&self) -> Result<()> {
        let path = description(&self.directory, &self.name);
        fs::remove_file(&path).map_err(Error::io("remove", &path))
    }

    /// Kills it when it runs, and starts it as it was started first.
    pub fn restart(&self, place: &Place) -> Result<()> {
        if !self.processes(place).is_empty() {
            self.kill(place)?;
        }
        self.start(place)
    }
}

/// The names of all units that were started in the place with this directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory.join("units")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_string_lossy().strip_suffix(".json").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn description(directory: &Path, name: &str) -> PathBuf {
    directory.join("units").join(format!("{name}.json"))
}
