//! TCP of which one side has ended: the client shuts down its sending side, and still gets a long answer.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::stream::{GAP, PATIENCE, explain};
use crate::{client, say, server, signals};

/// Longest request, in bytes.
const MAX_REQUEST: u64 = 64;
/// How often a part of the answer is sent.
const STEP: Duration = Duration::from_millis(20);
/// Of how many different bytes answers are made, a number that no buffer size is a multiple of.
const PERIOD: u64 = 251;

/// The server: reads `BYTES MILLISECONDS` until the client has shut down its sending side, and only then answers
/// with so many bytes in so long a time.
pub fn answer(arguments: &Arguments) -> Result<ExitCode, String> {
    server::listen(arguments, 9, |mut stream| {
        let mut request = String::new();
        (&stream).take(MAX_REQUEST).read_to_string(&mut request)?;
        let (bytes, over) = parse(&request).ok_or_else(|| Error::from(ErrorKind::InvalidData))?;
        write_slowly(&mut stream, bytes, over)
    })
}

/// The client. Prints `connected`, `half-closed`, `gap at= ms=` for each wait that took long, `break at= error=` if
/// the answer does not come whole, and last `total expected= received= ms= longest_ms= broken=`.
pub fn ask(arguments: &Arguments) -> Result<ExitCode, String> {
    let address = arguments.operand("HOST:PORT")?;
    let expected = arguments.number("bytes", 1_000_000)?;
    let over = arguments.milliseconds("over", 0)?;
    let patience = arguments.milliseconds("patience", PATIENCE)?.max(Duration::from_millis(1));
    signals::catch()?;
    let mut stream = client::connect(address, Duration::from_secs(10))?;
    let io = |error: Error| format!("cannot use the connection: {error}");
    stream.set_read_timeout(Some(patience)).map_err(io)?;
    say(&format!("connected local={} remote={address}", stream.local_addr().map_err(io)?));
    write!(stream, "{expected} {}", over.as_millis()).map_err(io)?;
    stream.shutdown(Shutdown::Write).map_err(io)?;
    say("half-closed");
    let started = Instant::now();
    let (mut received, mut longest, mut broken) = (0, Duration::ZERO, None);
    while broken.is_none() && !signals::ended() {
        let asked = Instant::now();
        match read_part(&mut stream, received) {
            Ok(0) if received == expected => break,
            Ok(0) => broken = Some("the connection ended before the answer did".to_owned()),
            Ok(length) => received += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => broken = Some(explain(&error, patience)),
        }
        let took = asked.elapsed();
        longest = longest.max(took);
        if took > Duration::from_millis(GAP) {
            say(&format!("gap at={received} ms={}", took.as_millis()));
        }
    }
    if let Some(error) = &broken {
        say(&format!("break at={received} error={error}"));
    }
    let (ms, longest, breaks) =
        (started.elapsed().as_millis(), longest.as_millis(), u8::from(broken.is_some()));
    say(&format!(
        "total expected={expected} received={received} ms={ms} longest_ms={longest} broken={breaks}"
    ));
    Ok(ExitCode::from(u8::from(received != expected)))
}

/// Reads what is there, and checks it.
fn read_part(stream: &mut TcpStream, position: u64) -> std::io::Result<u64> {
    let mut buffer = [0; 16 * 1024];
    let length = stream.read(&mut buffer)?;
    let wrong = (position..).zip(buffer.iter().take(length)).find(|&(at, &byte)| byte_at(at) != byte);
    match wrong {
        None => Ok(length as u64),
        Some((at, _)) => Err(Error::new(ErrorKind::InvalidData, format!("byte {at} of the answer is wrong"))),
    }
}

fn write_slowly(stream: &mut TcpStream, bytes: u64, over: Duration) -> std::io::Result<()> {
    let started = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        let share = if over.is_zero() { 1.0 } else { started.elapsed().as_secs_f64() / over.as_secs_f64() };
        // At least one byte each time, so that a slow answer is no silence.
        let due = ((bytes as f64 * share.min(1.0)) as u64).clamp(sent + 1, bytes).min(sent + 64 * 1024);
        let part: Vec<u8> = (sent..due).map(byte_at).collect();
        stream.write_all(&part)?;
        sent = due;
        if share < 1.0 {
            thread::sleep(STEP);
        }
    }
    Ok(())
}

fn parse(request: &str) -> Option<(u64, Duration)> {
    let (bytes, over) = request.trim_end().split_once(' ')?;
    Some((bytes.parse().ok()?, Duration::from_millis(over.parse().ok()?)))
}

fn byte_at(position: u64) -> u8 {
    u8::try_from(position % PERIOD).unwrap_or_default()
}
