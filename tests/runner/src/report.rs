//! What the runner says while it works and at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::judge::Verdict;
use crate::process::Run;

/// Lines of a failed test's output that are shown.
const SHOWN: usize = 80;

/// Counts what happened, and says it.
#[derive(Debug)]
pub struct Report {
    total: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    done: usize,
    passed: usize,
    failed: Vec<String>,
    known: Vec<String>,
    slow: Vec<String>,
    suites: BTreeMap<String, Suite>,
}

#[derive(Debug, Default)]
struct Suite {
    tests: usize,
    time: Duration,
}

impl Report {
    /// A report of so many lines to come.
    pub fn new(total: usize) -> Self {
        Self { total, state: Mutex::default() }
    }

    /// Says what the runner is about to do.
    pub fn heading(&self, text: &str) {
        say(&format!("==> {text}"));
    }

    /// Takes note of a registered test.
    pub fn test(
        &self,
        suite: &str,
        name: &str,
        expected: u32,
        known: Option<&str>,
        verdict: &Verdict,
        run: &Run,
    ) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += 1;
        let seconds = run.took.as_secs_f64();
        let line = format!("{name}  {seconds:.1} s of {expected}");
        let mark = match verdict {
            Verdict::Passed => "ok    ",
            Verdict::Slow => "slow  ",
            Verdict::KnownToFail => "known ",
            Verdict::Failed(_) => "FAILED",
        };
        say(&format!("[{:>3}/{}] {mark} {line}", state.done, self.total));
        match verdict {
            Verdict::Passed => state.passed += 1,
            Verdict::Slow => {
                state.passed += 1;
                state.slow.push(line);
            }
            Verdict::KnownToFail => state.known.push(format!("{name}: {}", known.unwrap_or_default())),
            Verdict::Failed(why) => {
                state.failed.push(format!("{name}: {why}"));
                say(&format!(
                    "{}\n--- {name}: {why}; all of its output is in {}",
                    tail(&run.output),
                    run.log.display()
                ));
            }
        }
        let suite = state.suites.entry(suite.to_owned()).or_default();
        suite.tests += 1;
        suite.time += run.took;
    }

    /// Takes note of a program whose tests need nothing: how many passed and which failed.
    pub fn program(&self, title: &str, passed: usize, failed: &[String], run: &Run) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.done += 1;
        let mark = if failed.is_empty() { "ok    " } else { "FAILED" };
        let seconds = run.took.as_secs_f64();
        say(&format!("[{:>3}/{}] {mark} {title}  {passed} passed  {seconds:.1} s", state.done, self.total));
        if !failed.is_empty() {
            say(&format!(
                "{}\n--- {title}: all of its output is in {}",
                tail(&run.output),
                run.log.display()
            ));
        }
        state.passed += passed;
        state.failed.extend(failed.iter().map(|name| format!("{title}: {name}")));
        let suite = state.suites.entry(title.to_owned()).or_default();
        suite.tests += passed + failed.len();
        suite.time += run.took;
    }

    /// Takes note of what went wrong without the end of a test: that counts as a failure, too.
    pub fn trouble(&self, what: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        say(&format!("FAILED {what}"));
        state.failed.push(what.to_owned());
    }

    /// Says what became of everything; whether all is well.
    pub fn close(self, took: Duration) -> bool {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        say(&state.summary(took));
        state.failed.is_empty()
    }
}

impl State {
    fn summary(&self, took: Duration) -> String {
        let mut text = String::from("\nseconds  tests  suite\n");
        for (name, suite) in &self.suites {
            let _ = writeln!(text, "{:>7.1}  {:>5}  {name}", suite.time.as_secs_f64(), suite.tests);
        }
        let _ = writeln!(text, "{:>7.1}         all, with what they share", took.as_secs_f64());
        for (title, lines) in [
            ("over their time by more than half", &self.slow),
            ("known to fail, and did", &self.known),
            ("failed", &self.failed),
        ] {
            if !lines.is_empty() {
                let _ = writeln!(text, "\n{title}: {}", lines.len());
                for line in lines {
                    let _ = writeln!(text, "  {line}");
                }
            }
        }
        let _ = write!(text, "\n{} passed, {} failed", self.passed, self.failed.len());
        text
    }
}

fn tail(output: &str) -> String {
    let lines: Vec<_> = output.lines().collect();
    lines.get(lines.len().saturating_sub(SHOWN)..).unwrap_or_default().join("\n")
}

fn say(text: &str) {
    let mut out = io::stdout().lock();
    // Nobody reads it any more when this fails, and the tests go on.
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
