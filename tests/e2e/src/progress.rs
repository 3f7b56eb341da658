//! What a test says while it runs; the runner keeps it in the test's log.

use std::io::Write as _;

/// Says a line on standard error, and not by println, which the test harness would keep to itself.
pub fn say(text: &str) {
    // Nobody reads it any more when this fails, and the test goes on.
    let _ = writeln!(std::io::stderr(), "{text}");
}
