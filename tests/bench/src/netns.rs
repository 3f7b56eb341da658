//! Network namespaces, named by a process that is in them, and programs run inside.

use std::{
    env, fs,
    net::IpAddr,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::process::Running;

/// A network namespace of somebody else's process, or one of our own, which goes away when this is dropped.
pub struct Netns {
    pid: i32,
    holder: Option<Running>,
}

impl Netns {
    /// The namespace that this process is in.
    pub fn of(pid: i32) -> Self {
        Self { pid, holder: None }
    }

    /// A new one with nothing in it but an idle loopback.
    pub fn fresh() -> anyhow::Result<Self> {
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
            .spawn()
            .context("cannot run setpriv")?;
        let pid = i32::try_from(holder.id())?;
        let made = Self { pid, holder: Some(Running(holder)) };
        let (own, started) = (fs::read_link("/proc/self/ns/net")?, Instant::now());
        while fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|net| net == own) {
            ensure!(
                started.elapsed() < Duration::from_secs(5),
                "no network namespace was made: is this root?"
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(made)
    }

    /// Where the kernel shows it.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid)
    }

    /// The command that runs `argv` inside on one CPU, with standard output piped.
    pub fn command(&self, cpu: usize, argv: &[&str]) -> Command {
        // Both sides are pinned the same way; a machine with one CPU has only this one.
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter", &format!("--net={}", self.path())]);
        command.args(["taskset", "-c", &(cpu % cpus).to_string()]).args(argv);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// Runs `argv` inside and returns what it printed; anything but success is an error.
    pub fn run(&self, cpu: usize, argv: &[&str]) -> anyhow::Result<String> {
        finish(&mut self.command(cpu, argv), &argv.join(" "))
    }

    /// Runs `ip` with these words, separated by spaces.
    pub fn ip(&self, words: &str) -> anyhow::Result<String> {
        let argv: Vec<_> = std::iter::once("ip").chain(words.split(' ')).collect();
        self.run(0, &argv)
    }

    /// Connects two namespaces by a pair of devices.
    pub fn connect(&self, device: &str, other: &Self, other_device: &str) -> anyhow::Result<()> {
        let peer = other.holder.as_ref().map_or(other.pid, |h| i32::try_from(h.0.id()).unwrap_or(other.pid));
        self.ip(&format!("link add {device} type veth peer name {other_device} netns {peer}"))?;
        self.ip(&format!("link set {device} up"))?;
        other.ip(&format!("link set {other_device} up")).map(drop)
    }

    /// Bytes that a device has received and sent.
    pub fn bytes(&self, device: &str) -> anyhow::Result<u64> {
        let table = fs::read_to_string(format!("/proc/{}/net/dev", self.pid))?;
        let line = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))
            .with_context(|| format!("no device {device} in the network namespace of {}", self.pid))?;
        let columns: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match (columns.first(), columns.get(8)) {
            (Some(received), Some(sent)) => Ok(received.saturating_add(*sent)),
            _ => bail!("/proc/net/dev has an unknown shape"),
        }
    }
}

/// Where traffic must have been: the device's counters tell.
#[derive(Clone, Copy)]
pub struct Witness<'a>(pub &'a Netns, pub &'a str);

/// What the sample before has left behind, like connections that close, has this long to go.
const PAUSE: Duration = Duration::from_millis(200);

/// Takes a sample, a figure and how many bytes it moved, and fails unless all witnesses saw as many.
pub fn witnessed(
    witnesses: &[Witness],
    sample: impl FnOnce() -> anyhow::Result<(f64, u64)>,
) -> anyhow::Result<f64> {
    thread::sleep(PAUSE);
    let before = witnesses.iter().map(|w| w.0.bytes(w.1)).collect::<anyhow::Result<Vec<_>>>()?;
    let (figure, moved) = sample()?;
    ensure!(moved > 0, "nothing was moved");
    for (Witness(netns, device), before) in witnesses.iter().zip(before) {
        let seen = netns.bytes(device)?.saturating_sub(before);
        ensure!(seen >= moved, "{device} carried {seen} bytes of {moved}: the traffic took another path");
    }
    Ok(figure)
}

/// Two ends of a path.
pub struct Path<'a> {
    /// Where the client runs.
    pub client: &'a Netns,
    /// Where the server runs.
    pub server: &'a Netns,
    /// The server's address, as the client knows it.
    pub address: IpAddr,
}

/// This program, for running itself in a namespace.
pub fn this_program() -> anyhow::Result<String> {
    Ok(env::current_exe().context("cannot find this program")?.display().to_string())
}

/// Runs a command to its end and returns what it printed; anything but success is an error.
pub fn finish(command: &mut Command, name: &str) -> anyhow::Result<String> {
    let output = command.stderr(Stdio::piped()).output().with_context(|| format!("cannot run {name}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{name}: {} {}{}", output.status, err.trim(), out.trim());
    Ok(out.into_owned())
}
