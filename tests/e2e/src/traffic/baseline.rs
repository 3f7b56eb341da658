//! Two bare network namespaces that exchange datagrams beside the clusters: what they pause, the machine paused.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, ensure};

use super::Window;

/// The addresses of the two (RFC 5737).
const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// A pause from here on is the machine's, in milliseconds.
const GAP: &str = "50";
/// The client waits so long for an answer, in milliseconds, before it says that one is lost.
const TIMEOUT: &str = "1000";

/// The two namespaces; they go away with it.
pub struct Baseline {
    names: [String; 2],
    server: Option<Child>,
    client: Option<Child>,
    pauses: Option<JoinHandle<Vec<Window>>>,
}

impl Baseline {
    /// Starts an exchange by this test program.
    pub fn start(program: &str) -> anyhow::Result<Self> {
        let id = std::process::id();
        let names = ["a", "b"].map(|end| format!("tombolo-base-{id}-{end}"));
        let mut baseline = Self { names, server: None, client: None, pauses: None };
        baseline.connect()?;
        let [a, b] = &baseline.names;
        baseline.server = Some(spawn(b, &[program, "udp-echo", "--port", "7"])?);
        let target = format!("{}:7", ADDRESSES[1]);
        let mut client = spawn(a, &[program, "udp-exchange", &target, "--gap", GAP, "--timeout", TIMEOUT])?;
        let output = BufReader::new(client.stdout.take().context("the client has no output")?);
        baseline.client = Some(client);
        baseline.pauses = Some(std::thread::spawn(move || {
            output.lines().map_while(Result::ok).filter_map(|line| pause(&line)).collect()
        }));
        Ok(baseline)
    }

    /// Ends the exchange, and returns the pauses that it saw. Fails if an end of it ended before.
    pub fn finish(mut self) -> anyhow::Result<Vec<Window>> {
        for child in [self.client.as_mut(), self.server.as_mut()].into_iter().flatten() {
            ensure!(child.try_wait()?.is_none(), "an end of the bare namespaces ended early");
            child.kill()?;
        }
        let pauses = self.pauses.take().context("the pauses were read before")?;
        pauses.join().map_err(|_| anyhow::anyhow!("the reader of the bare namespaces' pauses panicked"))
    }

    fn connect(&self) -> anyhow::Result<()> {
        let [a, b] = &self.names;
        for name in &self.names {
            ip(&["netns", "add", name])?;
        }
        ip(&["-n", a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b])?;
        for (name, address) in self.names.iter().zip(ADDRESSES) {
            ip(&["-n", name, "address", "add", &format!("{address}/30"), "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
        }
        Ok(())
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        for child in [self.client.as_mut(), self.server.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.names {
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

/// A line `gap seq= ms=` that was printed just now. It spans the datagrams that were lost before it, so that those
/// are not taken off twice.
fn pause(line: &str) -> Option<Window> {
    let words = line.strip_prefix("gap ")?;
    let took: f64 = words.split(' ').find_map(|word| word.strip_prefix("ms=")?.parse().ok())?;
    Some(Window::last(Duration::from_secs_f64(took / 1000.0)))
}

fn spawn(namespace: &str, argv: &[&str]) -> anyhow::Result<Child> {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).args(argv);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("cannot run {argv:?} in {namespace}"))
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip")?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
