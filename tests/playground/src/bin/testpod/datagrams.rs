//! Long exchanges of datagrams from one socket, connected or not: every loss and every pause is seen.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::stream::GAP;
use crate::{say, signals};

/// Datagrams one after the other by a connected socket. Prints `lost seq=` for each that did not come back in time,
/// `gap seq= ms=` at the end of each pause (see [`Pause`]) that took longer than --gap, `late seq=` when an answer
/// to an earlier one comes while that one is waited for, `answers from= name= count=` for each that answered, and last
/// `total sent= received= lost= longest_ms=`.
pub fn connected(arguments: &Arguments) -> Result<ExitCode, String> {
    let target = arguments.target()?;
    let socket = bind(&[target])?;
    socket.connect(target).map_err(unusable)?;
    exchange(
        arguments,
        &[target],
        |payload, _| socket.send(payload),
        |buffer, target| socket.recv(buffer).map(|length| (length, target)),
        &socket,
    )
}

/// The same by one socket that is not connected, to each target in turn; an answer that says to come from another
/// address is no answer, and printed as `foreign seq= from=`.
pub fn unconnected(arguments: &Arguments) -> Result<ExitCode, String> {
    let targets = arguments.targets()?;
    let socket = bind(&targets)?;
    let is_v4 = socket.local_addr().map_err(unusable)?.is_ipv4();
    let reachable = |target: SocketAddr| match target {
        // A socket of IPv6 reaches IPv4 by addresses of its own kind.
        SocketAddr::V4(v4) if !is_v4 => (v4.ip().to_ipv6_mapped(), v4.port()).into(),
        other => other,
    };
    exchange(
        arguments,
        &targets,
        |payload, target| socket.send_to(payload, reachable(target)),
        |buffer, _| {
            socket
                .recv_from(buffer)
                .map(|(length, from)| (length, (from.ip().to_canonical(), from.port()).into()))
        },
        &socket,
    )
}

/// For how long nothing was answered, at most: from the first of the datagrams in a row that were lost (or that was
/// answered late) until the next answer.
#[derive(Debug, Default)]
pub struct Pause {
    since: Option<Instant>,
    longest: Duration,
}

impl Pause {
    /// A question has been sent.
    pub fn asked(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// An answer has come; how long the pause was that it ended.
    pub fn answered(&mut self, now: Instant) -> Duration {
        let pause = self.since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.longest = self.longest.max(pause);
        pause
    }

    /// The longest in milliseconds, when no more answers are waited for.
    pub fn longest_ms(mut self, now: Instant) -> u128 {
        self.answered(now);
        self.longest.as_millis()
    }
}

/// Whether this answers `payload`: the same bytes, after the name of who answers and a space if it has one.
pub fn answer_to<'a>(payload: &[u8], answer: &'a [u8]) -> Option<&'a [u8]> {
    match answer.strip_suffix(payload)? {
        [] => Some(&[]),
        [name @ .., b' '] => Some(name),
        _ => None,
    }
}

fn exchange(
    arguments: &Arguments,
    targets: &[SocketAddr],
    send: impl Fn(&[u8], SocketAddr) -> std::io::Result<usize>,
    receive: impl Fn(&mut [u8], SocketAddr) -> std::io::Result<(usize, SocketAddr)>,
    socket: &UdpSocket,
) -> Result<ExitCode, String> {
    let count = arguments.number("n", u64::MAX)?;
    let interval = arguments.milliseconds("interval", 20)?;
    let timeout = arguments.milliseconds("timeout", 1000)?.max(Duration::from_millis(1));
    let gap = arguments.milliseconds("gap", GAP)?;
    let prefix = arguments.text("prefix");
    signals::catch()?;
    socket.set_read_timeout(Some(timeout)).map_err(unusable)?;
    let (mut sent, mut received, mut pause) = (0_u64, 0_u64, Pause::default());
    let mut answers = BTreeMap::<(SocketAddr, String), u64>::new();
    for &target in targets.iter().cycle() {
        if sent == count || signals::ended() {
            break;
        }
        sent += 1;
        let payload = format!("{prefix}{sent}").into_bytes();
        pause.asked(Instant::now());
        let name = match send(&payload, target) {
            Ok(_) => answered(&receive, &payload, target, timeout, sent),
            Err(_) => None,
        };
        if let Some(name) = name {
            let took = pause.answered(Instant::now());
            if took > gap {
                say(&format!("gap seq={sent} ms={}", took.as_millis()));
            }
            received += 1;
            *answers.entry((target, name)).or_default() += 1;
        } else {
            say(&format!("lost seq={sent}"));
        }
        signals::pause(Some(interval));
    }
    for ((from, name), count) in &answers {
        say(&format!("answers from={from} name={name} count={count}"));
    }
    let (lost, ms) = (sent - received, pause.longest_ms(Instant::now()));
    say(&format!("total sent={sent} received={received} lost={lost} longest_ms={ms}"));
    Ok(ExitCode::from(u8::from(lost > 0)))
}

/// Waits for this answer, and returns the name of who gave it; late ones to other datagrams are passed over.
fn answered(
    receive: &impl Fn(&mut [u8], SocketAddr) -> std::io::Result<(usize, SocketAddr)>,
    payload: &[u8],
    target: SocketAddr,
    timeout: Duration,
    sequence: u64,
) -> Option<String> {
    let started = Instant::now();
    let mut buffer = [0; 1500];
    while started.elapsed() < timeout {
        match receive(&mut buffer, target) {
            Ok((length, from)) => {
                let Some(name) = answer_to(payload, buffer.get(..length)?) else {
                    say(&format!("late seq={sequence}"));
                    continue;
                };
                if from == target {
                    return Some(String::from_utf8_lossy(name).into_owned());
                }
                say(&format!("foreign seq={sequence} from={from}"));
            }
            // SIGTERM ends the exchange, but the answer under way still counts.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    None
}

/// A socket that reaches all of these.
pub fn bind(targets: &[SocketAddr]) -> Result<UdpSocket, String> {
    let any: SocketAddr = if targets.iter().all(SocketAddr::is_ipv4) {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    UdpSocket::bind(any).map_err(unusable)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that map_err wants")]
fn unusable(error: std::io::Error) -> String {
    format!("cannot use the socket: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_payload_after_a_name() {
        assert_eq!(answer_to(b"7", b"7"), Some(&b""[..]));
        assert_eq!(answer_to(b"7", b"web-1 7"), Some(&b"web-1"[..]));
        assert_eq!(answer_to(b"7", b"17"), None);
        assert_eq!(answer_to(b"7", b"web-1 8"), None);
    }

    #[test]
    fn a_pause_reaches_from_the_first_loss_to_the_next_answer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pause = Pause::default();
        pause.asked(at(0));
        pause.answered(at(3));
        for lost in [100, 300, 500] {
            pause.asked(at(lost));
        }
        pause.answered(at(520));
        pause.asked(at(600));
        assert_eq!(pause.longest_ms(at(700)), 420);
    }
}
