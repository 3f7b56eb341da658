//! SIGTERM and SIGINT, which the first process of a container must handle to end at once.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
/// How late an end may be noticed.
const STEP: Duration = Duration::from_millis(20);

static ENDED: AtomicBool = AtomicBool::new(false);

/// From now on the signals end nothing by themselves; see [`ended`].
pub fn catch() -> Result<(), String> {
    for number in [SIGINT, SIGTERM] {
        sys::handle(number, note).map_err(|error| format!("cannot handle signal {number}: {error}"))?;
    }
    Ok(())
}

/// Whether one of the signals has come.
pub fn ended() -> bool {
    ENDED.load(Ordering::Relaxed)
}

/// Waits for one of the signals, or so long.
pub fn wait(limit: Option<Duration>) -> Result<(), String> {
    catch()?;
    pause(limit);
    Ok(())
}

/// Sleeps so long (for ever without a limit), but not past one of the signals.
pub fn pause(limit: Option<Duration>) {
    let started = Instant::now();
    while !ended() {
        let left = limit.map_or(STEP, |limit| limit.saturating_sub(started.elapsed()).min(STEP));
        if left.is_zero() {
            return;
        }
        thread::sleep(left);
    }
}

extern "C" fn note(_: c_int) {
    ENDED.store(true, Ordering::Relaxed);
}
