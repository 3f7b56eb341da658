//! Tells a step, shows its command, runs it, and checks what it printed.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// Where commands run: the checkout, with the playground's programs in PATH and its clusters as contexts.
pub struct Stage {
    root: PathBuf,
    path: String,
    kubeconfig: String,
    step: u32,
}

impl Stage {
    /// A stage for these clusters of the playground.
    pub fn new(root: PathBuf, clusters: &[&str]) -> Self {
        let bin = |dir: &str| root.join(dir).display().to_string();
        let static_binaries = format!("target/{}-unknown-linux-gnu/release", std::env::consts::ARCH);
        let path = [
            bin(&static_binaries),
            bin("target/debug"),
            bin("target/playground/bin"),
            std::env::var("PATH").unwrap_or_default(),
        ];
        let kubeconfigs: Vec<_> =
            clusters.iter().map(|c| bin(&format!("target/playground/{c}.kubeconfig"))).collect();
        Self { path: path.join(":"), kubeconfig: kubeconfigs.join(":"), root, step: 0 }
    }

    /// Begins a step with what it is about.
    pub fn step(&mut self, title: &str, text: &str) -> io::Result<()> {
        self.step += 1;
        writeln!(io::stdout(), "\n\x1b[1m{}. {title}\x1b[0m\n{text}\n", self.step)
    }

    /// Runs a command line and shows its output; it must succeed.
    pub fn run(&self, line: &str) -> anyhow::Result<String> {
        show(line)?;
        let (success, text) = self.quietly(line)?;
        print(&text)?;
        if success { Ok(text) } else { bail!("`{line}` failed") }
    }

    /// Runs a command line, again and again, until `wanted` of its output holds.
    pub fn until(&self, line: &str, wanted: impl Fn(bool, &str) -> bool) -> anyhow::Result<String> {
        show(line)?;
        let start = Instant::now();
        loop {
            let (success, text) = self.quietly(line)?;
            if wanted(success, &text) {
                print(&text)?;
                return Ok(text);
            }
            if start.elapsed() > Duration::from_secs(60) {
                print(&text)?;
                bail!("`{line}` never showed what was expected");
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Starts a command line that runs beside the story.
    pub fn start(&self, line: &str) -> anyhow::Result<Child> {
        show(&format!("{line} &"))?;
        self.command(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a command")
    }

    /// Waits for a command that was started and shows the end of its output; it must succeed.
    pub fn finish(&self, child: Child, lines: usize) -> anyhow::Result<String> {
        let output = child.wait_with_output()?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let tail: Vec<_> = text.lines().collect();
        print(&tail[tail.len().saturating_sub(lines)..].join("\n"))?;
        if output.status.success() {
            return Ok(text);
        }
        let why = text.lines().find(|line| line.starts_with("fail")).unwrap_or_default();
        bail!("the command in the background failed: {why}")
    }

    /// Runs a command line without showing it.
    pub fn quietly(&self, line: &str) -> anyhow::Result<(bool, String)> {
        let output = self.command(line).output().context("cannot run bash")?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.success(), text))
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-c", line])
            .current_dir(&self.root)
            .env("PATH", &self.path)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null());
        command
    }
}

fn show(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "\x1b[36m$ {line}\x1b[0m")
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    for line in text.lines() {
        writeln!(out, "  {line}")?;
    }
    out.flush()
}
