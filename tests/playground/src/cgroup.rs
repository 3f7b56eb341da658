//! The cgroup tree of the playground: what is in it is ours, and nothing of ours is elsewhere.
//!
//! Both the pure cgroup v2 layout and the hybrid one (v1 controllers, v2 at `unified`) are handled.
//! Source: Documentation/admin-guide/cgroup-v2.rst of the Linux kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::layout::{create_dir, read};
use crate::{Error, Result};

/// Name of the cgroup that everything of the playground is below.
pub const ROOT_NAME: &str = "tombolo-playground";

/// The cgroup v2 hierarchy of this machine.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    mount: PathBuf,
}

impl Hierarchy {
    /// Finds where cgroup v2 is mounted.
    pub fn find() -> Result<Self> {
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .into_iter()
            .map(PathBuf::from)
            .find(|mount| mount.join("cgroup.controllers").exists())
            .map(|mount| Self { mount })
            .ok_or_else(|| Error::Missing("no cgroup v2 hierarchy at /sys/fs/cgroup; mount one".into()))
    }

    /// The playground's own cgroup, which may not exist.
    pub fn root(&self) -> Cgroup {
        Cgroup { path: self.mount.join(ROOT_NAME) }
    }

    /// Whether the controllers that runc sets limits by are there. Not so in the hybrid layout.
    pub fn has_controllers(&self) -> bool {
        read(&self.mount.join("cgroup.controllers")).is_ok_and(|list| {
            ["cpu", "memory", "pids"].iter().all(|c| list.split_whitespace().any(|l| l == *c))
        })
    }
}

/// One cgroup, by its path in the machine's own view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// The cgroup at a path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A cgroup below this one.
    pub fn child(&self, name: &str) -> Self {
        Self { path: self.path.join(name) }
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Creates it with its parents.
    pub fn create(&self) -> Result<()> {
        create_dir(&self.path)
    }

    /// Hands the controllers that it has on to the cgroups below.
    pub fn delegate(&self) -> Result<()> {
        let controllers = read(&self.path.join("cgroup.controllers"))?;
        for controller in controllers.split_whitespace() {
            let file = self.path.join("cgroup.subtree_control");
            fs::write(&file, format!("+{controller}")).map_err(Error::io("write", &file))?;
        }
        Ok(())
    }

    /// Moves the calling process into it.
    pub fn join(&self) -> Result<()> {
        let file = self.path.join("cgroup.procs");
        fs::write(&file, "0").map_err(Error::io("write", &file))
    }

    /// The processes in it, without those in cgroups below.
    pub fn processes(&self) -> Vec<i32> {
        let list = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        list.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// The processes in it and below.
    pub fn all_processes(&self) -> Vec<i32> {
        let mut pids = self.processes();
        for child in self.children() {
            pids.extend(child.all_processes());
        }
        pids
    }

    /// Kills every process in it and below, and waits until they are gone.
    pub fn kill(&self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        while self.is_populated() {
            let file = self.path.join("cgroup.kill");
            fs::write(&file, "1").map_err(Error::io("write", &file))?;
            if started.elapsed() > patience {
                return Err(Error::Timeout {
                    what: format!("the processes of {} did not end", self.path.display()),
                    seconds: patience.as_secs(),
                    hint: format!("they are {:?}", self.all_processes()),
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Removes it and all below; they must be empty.
    pub fn remove(&self) -> Result<()> {
        for child in self.children() {
            child.remove()?;
        }
        let started = Instant::now();
        loop {
            match fs::remove_dir(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                // The kernel takes a moment to let go of a cgroup whose last process has ended.
                Err(_) if started.elapsed() < Duration::from_secs(5) => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(Error::io("remove the cgroup", &self.path)(error)),
            }
        }
    }

    fn is_populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1"))
    }

    fn children(&self) -> Vec<Self> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        entries.flatten().filter(|e| e.path().is_dir()).map(|e| Self::at(e.path())).collect()
    }
}
