//! Lines on standard error that say what is being done and how long it took.

use std::io::{self, Write};
use std::time::{Duration, Instant};

/// A clock that started with the operation.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Writes one line, with the seconds since the start before it.
    pub fn say(self, line: &str) {
        // A closed standard error must not end a playground that comes up.
        let _ = writeln!(io::stderr(), "{:6.1}s  {line}", self.started.elapsed().as_secs_f64());
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.started.elapsed()
    }
}
