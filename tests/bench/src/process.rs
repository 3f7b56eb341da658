//! Processes that take part in a measurement, and what the kernel says of any process.

use std::{
    fs,
    io::{BufRead, BufReader, Lines, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

/// A process that is killed when this is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that says what it has to say in lines.
pub struct Process {
    running: Running,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// One that only speaks; its output is piped.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command.spawn().context("cannot run this program")?;
        let stdout = child.stdout.take().context("its output is not piped")?;
        Ok(Self { running: Running(child), lines: BufReader::new(stdout).lines() })
    }

    /// One that is told things, too.
    pub fn talking(command: &mut Command) -> anyhow::Result<Self> {
        Self::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))
    }

    /// Says a line to it.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.running.0.stdin.as_mut().context("its input is not piped")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// The next line that it says.
    pub fn line(&mut self) -> anyhow::Result<String> {
        self.lines.next().context("it ended early")?.context("its output cannot be read")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(i32::try_from(self.running.0.id())?), signal).context("it has ended")
    }

    /// Tells it that nothing more will come, and waits for its end, at most `limit`. What has not ended then is killed
    /// when this is dropped.
    pub fn end(&mut self, limit: Duration) {
        drop(self.running.0.stdin.take());
        let started = Instant::now();
        while started.elapsed() < limit && matches!(self.running.0.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// CPU time that a process has used, in the kernel too, seconds.
pub fn cpu(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the process has ended")?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/<pid>/stat has an unknown shape")?;
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    let hertz = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    #[expect(clippy::cast_precision_loss, reason = "100 on every Linux")]
    Ok(ticks.iter().sum::<f64>() / hertz as f64)
}

/// Resident memory of a process, MB.
pub fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_this_process() {
        let own = std::process::id();
        let before = cpu(own).unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(300) {
            std::hint::black_box(0);
        }
        let used = cpu(own).unwrap() - before;
        // Other tests run in this process, too, but not more of them at once than there are CPUs.
        let most =
            started.elapsed().as_secs_f64() * thread::available_parallelism().unwrap().get() as f64 + 0.1;
        assert!(used > 0.05 && used < most, "{used} s, at most {most} s");
        assert!((1.0..10_000.0).contains(&resident(own).unwrap()));
    }

    #[test]
    fn a_process_ends_when_nothing_more_will_come() {
        let mut echo = Process::talking(&mut Command::new("cat")).unwrap();
        echo.tell("a").unwrap();
        assert_eq!(echo.line().unwrap(), "a");
        let started = Instant::now();
        echo.end(Duration::from_secs(10));
        assert!(echo.running.0.try_wait().unwrap().is_some_and(|status| status.success()));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
