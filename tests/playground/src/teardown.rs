//! The end of a playground, and the proof that nothing of it is left.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::bpf;
use crate::cgroup::{Cgroup, Hierarchy, ROOT_NAME};
use crate::inotify;
use crate::layout::Layout;
use crate::lock::Lock;
use crate::progress::Progress;
use crate::underlay::MANAGEMENT_LINK;
use crate::{Error, Result};

/// How long processes may take to end and the kernel to let go of what they held.
const PATIENCE: Duration = Duration::from_secs(60);

/// True once the playground is being ended by a signal: then nothing new may be started.
static ENDING: RwLock<bool> = RwLock::new(false);

/// Ends the playground of this machine, whoever started it and however far it came. Needs only names,
/// not the state directory.
pub fn down(layout: &Layout, progress: Progress) -> Result<()> {
    let _lock = Lock::take(PATIENCE, progress)?;
    end(layout, progress)
}

/// Makes the operation that another thread of this process is at fail soon: nothing more is started, and
/// what has been is killed, again and again, as some of it may only be on its way into the cgroup. The
/// operation's own thread then calls [`end`].
pub fn interrupt() -> ! {
    *ENDING.write().unwrap_or_else(PoisonError::into_inner) = true;
    loop {
        if let Ok(hierarchy) = Hierarchy::find() {
            // What cannot be killed now is met again by the next round, and at last by `end`.
            let _ = hierarchy.root().kill(PATIENCE);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Whether [`interrupt`] was called.
pub fn is_interrupted() -> bool {
    *ENDING.read().unwrap_or_else(PoisonError::into_inner)
}

/// The work of [`down`], for a caller that has the lock or has been interrupted.
pub fn end(layout: &Layout, progress: Progress) -> Result<()> {
    layout.check_own()?;
    let root = Hierarchy::find()?.root();
    if root.exists() {
        progress.say("ending all processes");
        end_cgroup(&root)?;
    }
    remove_link()?;
    for stray in stray_cgroups() {
        Cgroup::at(stray).remove()?;
    }
    if layout.root().exists() {
        inotify::restore(layout)?;
        progress.say("removing files");
        layout.remove()?;
    }
    Ok(())
}

/// What is left of a playground on this machine, one line each; empty after [`down`].
pub fn leftovers(layout: &Layout) -> Vec<String> {
    let mut found = Vec::new();
    found.extend(stray_cgroups().iter().map(|path| format!("cgroup {}", path.display())));
    if link_path().exists() {
        found.push(format!("link {MANAGEMENT_LINK}"));
    }
    let directory = layout.root().display().to_string();
    if layout.root().exists() {
        found.push(format!("directory {directory}"));
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&directory)).map(|line| format!("mount {line}")));
    found.extend(processes_of(&directory));
    found
}

/// Everything on the machine that a playground could leave behind, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at mounts, links, addresses, routes, rules, tables of nftables (and of iptables in its present form),
    /// cgroups (also those of v1), network namespaces, BPF programs and maps of the machine.
    pub fn take() -> Result<Self> {
        let mut lines = BTreeSet::new();
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("read", "/proc/self/mountinfo"))?;
        // The first three fields are numbers, which differ between mounts of the same thing.
        lines
            .extend(mounts.lines().map(|l| format!("mount {}", l.splitn(4, ' ').last().unwrap_or_default())));
        for (kind, arguments) in [
            ("link", "-o link show"),
            ("address", "-o address show"),
            ("route", "-4 route show table all"),
            ("route", "-6 route show table all"),
            ("rule", "-4 rule show"),
            ("rule", "-6 rule show"),
        ] {
            let output =
                Command::new("ip").args(arguments.split(' ')).output().map_err(Error::io("run", "ip"))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            lines.extend(text.lines().map(|line| format!("{kind} {}", without_lifetimes(line))));
        }
        // Without the program there is nobody who makes such rules.
        if let Ok(tables) = Command::new("nft").args(["list", "tables"]).output() {
            lines.extend(String::from_utf8_lossy(&tables.stdout).lines().map(str::to_owned));
        }
        let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(dir) = pending.pop() {
            lines.insert(format!("cgroup {}", dir.display()));
            pending.extend(directories(&dir));
        }
        lines.extend(network_namespaces());
        lines.extend(bpf::census().into_iter().map(|(object, count)| format!("bpf {object} x {count}")));
        Ok(Self { lines })
    }

    /// One that was written by [`fmt::Display`].
    pub fn parse(text: &str) -> Self {
        Self { lines: text.lines().map(str::to_owned).collect() }
    }

    /// What is in this snapshot and was not in `before`.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.lines.difference(&before.lines).cloned().collect()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// What `ip` prints without the seconds that addresses and routes still live, which differ each time.
fn without_lifetimes(line: &str) -> String {
    let keys = ["expires", "valid_lft", "preferred_lft"];
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if keys.contains(&word) {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// Those that a process of the machine is in.
fn network_namespaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let links = entries.flatten().filter_map(|entry| fs::read_link(entry.path().join("ns/net")).ok());
    links.map(|link| format!("namespace {}", link.display())).collect()
}

/// Allows starting a process while the guard lives, unless the playground is being ended.
pub(crate) fn spawning() -> Result<RwLockReadGuard<'static, bool>> {
    let ending = ENDING.read().unwrap_or_else(PoisonError::into_inner);
    if *ending { Err(Error::Interrupted) } else { Ok(ending) }
}

/// Connections that lose their process try to say so to the other end, which is dead too, and for minutes keep their
/// namespace with its devices and BPF programs. One try is enough for them (ip-sysctl, `tcp_orphan_retries`). What
/// cannot be told so goes away later.
fn hurry_orphans(root: &Cgroup) {
    let own = fs::read_link("/proc/self/ns/net").ok();
    let mut seen: BTreeSet<_> = own.into_iter().collect();
    for pid in root.all_processes() {
        let namespace = format!("/proc/{pid}/ns/net");
        if fs::read_link(&namespace).is_ok_and(|link| seen.insert(link)) {
            let told = thread::spawn(move || {
                nix::sched::setns(fs::File::open(namespace)?, nix::sched::CloneFlags::CLONE_NEWNET)?;
                fs::write("/proc/sys/net/ipv4/tcp_orphan_retries", "1")
            });
            let _ = told.join();
        }
    }
}

/// Ends all processes of a cgroup, and removes it. A process that was started just before may still join it, so
/// kill and remove until it is gone.
pub(crate) fn end_cgroup(root: &Cgroup) -> Result<()> {
    hurry_orphans(root);
    let started = Instant::now();
    loop {
        root.kill(PATIENCE)?;
        match root.remove() {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > PATIENCE => return Err(error),
            Err(_) => {}
        }
    }
}

fn remove_link() -> Result<()> {
    let started = Instant::now();
    while link_path().exists() {
        // It may vanish by itself in between, as its other end died with the underlay.
        let _ = Command::new("ip").args(["link", "delete", MANAGEMENT_LINK]).output();
        if started.elapsed() > PATIENCE {
            return Err(Error::Timeout {
                what: format!("the link {MANAGEMENT_LINK} did not go away"),
                seconds: PATIENCE.as_secs(),
                hint: format!("try `ip link delete {MANAGEMENT_LINK}`"),
            });
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn link_path() -> PathBuf {
    Path::new("/sys/class/net").join(MANAGEMENT_LINK)
}

/// The playground's root in any hierarchy.
fn stray_cgroups() -> Vec<PathBuf> {
    let base = PathBuf::from("/sys/fs/cgroup");
    directories(&base)
        .into_iter()
        .chain([base])
        .map(|hierarchy| hierarchy.join(ROOT_NAME))
        .filter(|root| root.is_dir())
        .collect()
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Processes that run a program of the playground's directory or were given a file of it.
fn processes_of(directory: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy() != own)
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok().map(|line| (entry, line)))
        .map(|(entry, line)| (entry, String::from_utf8_lossy(&line).replace('\0', " ")))
        .filter(|(_, line)| line.contains(&format!("{directory}/")))
        .map(|(entry, line)| format!("process {} {line}", entry.file_name().to_string_lossy()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_no_difference() {
        let route = "fd00::/64 dev eth0 proto ra expires 1799sec pref medium";
        assert_eq!(without_lifetimes(route), "fd00::/64 dev eth0 proto ra pref medium");
        let address =
            "4: eth0    inet6 fd00::2/64 scope global \\       valid_lft 86399sec preferred_lft 14399sec";
        assert_eq!(without_lifetimes(address), "4: eth0 inet6 fd00::2/64 scope global \\");
    }
}
