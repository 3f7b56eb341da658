//! A long exchange over one TCP connection, numbered so that every loss and every break is seen.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::{client, say, signals};

/// Longest wait for an answer that counts as a pause only, not as a break, in milliseconds.
pub const PATIENCE: u64 = 60_000;
/// From here on a wait is worth a line, in milliseconds.
pub const GAP: u64 = 500;

/// One TCP connection that is used until it breaks, COUNT lines came back or SIGTERM comes. Prints `connected`,
/// `gap seq= ms=` for each answer that took long, `break seq= error=` if the connection fails, and last `total
/// sent= received= longest_ms= broken=`.
pub fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let address = arguments.operand("HOST:PORT")?;
    let count = arguments.number("n", u64::MAX)?;
    let interval = arguments.milliseconds("interval", 20)?;
    let patience = arguments.milliseconds("patience", PATIENCE)?.max(Duration::from_millis(1));
    let gap = arguments.milliseconds("gap", GAP)?;
    let prefix = arguments.text("prefix");
    signals::catch()?;
    let mut writer = client::connect(address, Duration::from_secs(10))?;
    let io = |error: std::io::Error| format!("cannot use the connection: {error}");
    writer.set_nodelay(true).map_err(io)?;
    writer.set_read_timeout(Some(patience)).map_err(io)?;
    writer.set_write_timeout(Some(patience)).map_err(io)?;
    let mut reader = BufReader::new(writer.try_clone().map_err(io)?);
    say(&format!("connected local={} remote={address}", writer.local_addr().map_err(io)?));
    let (mut sent, mut received, mut longest) = (0_u64, 0_u64, Duration::ZERO);
    let mut broken = None;
    while sent < count && !signals::ended() && broken.is_none() {
        sent += 1;
        let started = Instant::now();
        let (payload, mut line) = (format!("{prefix}{sent}"), String::new());
        let result = writeln!(writer, "{payload}").and_then(|()| reader.read_line(&mut line));
        let took = started.elapsed();
        longest = longest.max(took);
        match result {
            Ok(0) => broken = Some("the other end closed the connection".to_owned()),
            // What comes too late is a break even if the timer, which begins anew with each byte, did not say so.
            Ok(_) if took > patience => broken = Some(too_long(patience)),
            Ok(_) if line.trim_end() == payload => received += 1,
            Ok(_) => broken = Some(format!("{:?} came back", line.trim_end())),
            Err(error) => broken = Some(explain(&error, patience)),
        }
        if took > gap {
            say(&format!("gap seq={sent} ms={}", took.as_millis()));
        }
        signals::pause(Some(interval));
    }
    if let Some(error) = &broken {
        say(&format!("break seq={sent} error={error}"));
    }
    let (ms, breaks) = (longest.as_millis(), u8::from(broken.is_some()));
    say(&format!("total sent={sent} received={received} longest_ms={ms} broken={breaks}"));
    Ok(ExitCode::from(breaks))
}

/// What broke a connection, where the system only says that a timer ran out.
pub fn explain(error: &std::io::Error, patience: Duration) -> String {
    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
        return too_long(patience);
    }
    error.to_string()
}

fn too_long(patience: Duration) -> String {
    format!("nothing came within {} ms", patience.as_millis())
}
