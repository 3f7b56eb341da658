//! The end of a runner that is interrupted: what it has started ends, too.

use std::path::Path;
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result};
use tokio::runtime::Builder;
use tokio::signal::unix::SignalKind;

/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;
/// Between two rounds of telling children to end.
const STEP: Duration = Duration::from_millis(100);
/// How long they may take: a playground on its way up has much to remove.
const PATIENCE: Duration = Duration::from_secs(90);

static ENDING: AtomicBool = AtomicBool::new(false);
static OWNS_PLAYGROUND: AtomicBool = AtomicBool::new(false);

/// From now on, Ctrl-C and SIGTERM end what runs and the playground before they end this program.
pub fn watch(root: &Path) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot watch signals")?;
    let root = root.to_owned();
    thread::spawn(move || {
        let signal = runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
            tokio::select! {
                result = tokio::signal::ctrl_c() => result,
                _ = terminate.recv() => Ok(()),
            }
        });
        if signal.is_ok() {
            end(&root);
        }
    });
    Ok(())
}

/// Whoever starts a process asks first. Does not return when the runner ends.
pub fn go_on() {
    while ENDING.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// From now on, a playground that runs is one of the runner or of its tests.
pub fn own_playground() {
    OWNS_PLAYGROUND.store(true, Ordering::SeqCst);
}

fn end(root: &Path) -> ! {
    ENDING.store(true, Ordering::SeqCst);
    let started = Instant::now();
    loop {
        // Who was past `go_on` has a child by now.
        thread::sleep(STEP);
        let children = children();
        if children.is_empty() {
            break;
        }
        let signal = if started.elapsed() < PATIENCE { "-TERM" } else { "-KILL" };
        // One that has ended meanwhile needs no signal.
        let _ = Command::new("kill").arg(signal).args(children).stderr(Stdio::null()).status();
    }
    if OWNS_PLAYGROUND.load(Ordering::SeqCst) {
        let program = root.join("target/debug/playground");
        let _ = Command::new(program).arg("down").current_dir(root).stdin(Stdio::null()).status();
    }
    exit(INTERRUPTED)
}

/// The numbers of the processes that this one has started.
fn children() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    texts.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_all_threads_are_found() {
        let child = thread::spawn(|| Command::new("sleep").arg("60").spawn().unwrap());
        let mut child = child.join().unwrap();
        let found = children().contains(&child.id().to_string());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
