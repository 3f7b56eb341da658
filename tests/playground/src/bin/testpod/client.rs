//! One-off questions: HTTP GET and name resolution.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::{failures, say, signals};

/// Prints one line per attempt (`ok status= ms= body=` or `fail ms= error=`) and then
/// `total requests= failed=`.
pub fn get(arguments: &Arguments) -> Result<ExitCode, String> {
    let url = arguments.operand("URL")?;
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("URL is {url:?}; start it with http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.rsplit(']').next().is_some_and(|tail| tail.contains(':')) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let count = arguments.number("n", 1)?;
    let interval = arguments.milliseconds("interval", 0)?;
    let timeout = arguments.milliseconds("timeout", 2000)?;
    signals::catch()?;
    let (mut requests, mut failed) = (0, 0);
    while requests < count && !signals::ended() {
        if requests > 0 {
            signals::pause(Some(interval));
        }
        requests += 1;
        let started = Instant::now();
        let result = request(&address, host, path, timeout);
        let ms = started.elapsed().as_secs_f64() * 1000.0;
        match result {
            Ok((status, body)) => {
                failed += u64::from(status != 200);
                say(&format!("ok status={status} ms={ms:.1} body={}", body.trim_end()));
            }
            Err(error) => {
                failed += 1;
                say(&format!("fail ms={ms:.1} error={error}"));
            }
        }
    }
    say(&format!("total requests={requests} failed={failed}"));
    Ok(failures(failed))
}

/// Prints `address ip=` for each address of a name; exit code 1 when there is none.
pub fn resolve(arguments: &Arguments) -> Result<ExitCode, String> {
    let name = arguments.operand("name")?;
    match (name, 0).to_socket_addrs() {
        Ok(addresses) => {
            let mut found: Vec<_> = addresses.map(|address| address.ip()).collect();
            found.sort();
            found.dedup();
            found.iter().for_each(|ip| say(&format!("address ip={ip}")));
            Ok(ExitCode::from(u8::from(found.is_empty())))
        }
        Err(error) => {
            say(&format!("fail error={error}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Connects to the first address of a name that answers.
pub fn connect(address: &str, timeout: Duration) -> Result<TcpStream, String> {
    let mut last = format!("{address} has no address");
    for candidate in
        address.to_socket_addrs().map_err(|error| format!("cannot resolve {address}: {error}"))?
    {
        match TcpStream::connect_timeout(&candidate, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("cannot connect to {candidate}: {error}"),
        }
    }
    Err(last)
}

fn request(address: &str, host: &str, path: &str, timeout: Duration) -> Result<(u16, String), String> {
    let mut stream = connect(address, timeout)?;
    let io = |error: std::io::Error| format!("connection failed: {error}");
    stream.set_read_timeout(Some(timeout)).map_err(io)?;
    stream.set_write_timeout(Some(timeout)).map_err(io)?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").map_err(io)?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer).map_err(io)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is cut short")?;
    let status =
        head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or("the answer has no status")?;
    Ok((status, body.replace('\n', " ")))
}
