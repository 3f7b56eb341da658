//! Long exchanges with an echo, numbered so that every loss and every break is seen.

use std::io::{BufRead, BufReader, Write};
use std::net::{ToSocketAddrs, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::{Arguments, client, say, signals};

/// Longest wait for an answer that counts as a pause of the stream only, not as its break.
const PATIENCE: Duration = Duration::from_secs(60);
/// From here on a wait is worth a line.
const GAP: Duration = Duration::from_millis(500);

/// One TCP connection that is used until it breaks, COUNT lines came back or SIGTERM comes. Prints `connected`, `gap seq= ms=`
/// for each answer that took long, `break seq= error=` if the connection fails, and last
/// `total sent= received= longest_ms= broken=`.
pub fn stream(arguments: &Arguments) -> Result<ExitCode, String> {
    let address = arguments.operand("HOST:PORT")?;
    let count = arguments.number("n", u64::MAX)?;
    let interval = arguments.milliseconds("interval", 20)?;
    let prefix = arguments.text("prefix");
    signals::catch()?;
    let mut writer = client::connect(address, Duration::from_secs(10))?;
    let io = |error: std::io::Error| format!("cannot use the connection: {error}");
    writer.set_nodelay(true).map_err(io)?;
    writer.set_read_timeout(Some(PATIENCE)).map_err(io)?;
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
            Ok(_) if line.trim_end() == payload => received += 1,
            Ok(_) => broken = Some(format!("{:?} came back", line.trim_end())),
            Err(error) => broken = Some(error.to_string()),
        }
        if took > GAP {
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

/// Datagrams one after the other; prints `lost seq=` for each that did not come back in time, and last
/// `total sent= received= lost=`.
pub fn datagrams(arguments: &Arguments) -> Result<ExitCode, String> {
    let text = arguments.operand("HOST:PORT")?;
    let count = arguments.number("n", u64::MAX)?;
    let interval = arguments.milliseconds("interval", 20)?;
    let timeout = arguments.milliseconds("timeout", 1000)?;
    let prefix = arguments.text("prefix");
    let address = text
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .ok_or_else(|| format!("cannot resolve {text}"))?;
    signals::catch()?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let io = |error: std::io::Error| format!("cannot use the socket: {error}");
    let socket = UdpSocket::bind(any).map_err(io)?;
    socket.connect(address).map_err(io)?;
    socket.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).map_err(io)?;
    let (mut sent, mut received) = (0_u64, 0_u64);
    while sent < count && !signals::ended() {
        sent += 1;
        let payload = format!("{prefix}{sent}");
        if socket.send(payload.as_bytes()).is_ok() && answered(&socket, &payload, timeout) {
            received += 1;
        } else {
            say(&format!("lost seq={sent}"));
        }
        signals::pause(Some(interval));
    }
    let lost = sent - received;
    say(&format!("total sent={sent} received={received} lost={lost}"));
    Ok(ExitCode::from(u8::from(lost > 0)))
}

/// Waits for this answer; late ones to other datagrams are passed over.
fn answered(socket: &UdpSocket, payload: &str, timeout: Duration) -> bool {
    let started = Instant::now();
    let mut buffer = [0; 1500];
    while started.elapsed() < timeout {
        match socket.recv(&mut buffer) {
            Ok(length) if buffer.get(..length) == Some(payload.as_bytes()) => return true,
            Ok(_) => {}
            // SIGTERM ends the exchange, but the answer under way still counts.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    false
}
