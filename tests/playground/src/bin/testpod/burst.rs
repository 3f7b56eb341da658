//! Many sockets at once: as many flows, each with a source port of its own, for what must remember flows.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::arguments::Arguments;
use crate::datagrams::answer_to;
use crate::{say, signals, sys};

/// Most datagrams of a round whose loss is worth a line.
const LINES: u64 = 10;
/// How often sockets are looked at.
const STEP: Duration = Duration::from_millis(1);
/// How far sending may be behind before what is due is put off: a burst would only fill the queue of who answers.
const SLACK: Duration = Duration::from_millis(5);

/// Sends one datagram per round from each socket and waits for all answers. Prints `lost round= port= error=` for
/// some, `round number= sent= received= lost= longest_ms=`, `answers name= count=` for each that answered, and last
/// `total sockets= sent= received= lost= longest_ms=`.
pub fn run(arguments: &Arguments) -> Result<ExitCode, String> {
    let target = arguments.target()?;
    let sockets = arguments.number("sockets", 1000)?;
    let rounds = arguments.number("n", 1)?;
    let interval = arguments.milliseconds("interval", 1000)?;
    let timeout = arguments.milliseconds("timeout", 2000)?;
    let gap = Duration::from_secs_f64(1.0 / arguments.number("rate", 2000)?.clamp(1, 1_000_000) as f64);
    sys::allow_files(sockets.saturating_add(16))?;
    let mut flows = open(target, sockets, arguments.number("port-base", 0)?)?;
    signals::catch()?;
    let mut sum = Tally::default();
    let mut round = 0;
    while round < rounds && !signals::ended() {
        if round > 0 {
            signals::pause(Some(interval));
        }
        round += 1;
        let tally = ask_all(&mut flows, round, gap, timeout);
        say(&format!("round number={round} {tally}"));
        sum.add(tally);
    }
    for (name, count) in &sum.names {
        say(&format!("answers name={name} count={count}"));
    }
    say(&format!("total sockets={sockets} {sum}"));
    Ok(ExitCode::from(u8::from(sum.received < sum.sent)))
}

struct Flow {
    socket: UdpSocket,
    port: u16,
    asked: Instant,
}

#[derive(Default)]
struct Tally {
    sent: u64,
    received: u64,
    longest: Duration,
    names: BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.longest = self.longest.max(other.longest);
        for (name, count) in other.names {
            *self.names.entry(name).or_default() += count;
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sent, received, ms) = (self.sent, self.received, self.longest.as_millis());
        write!(f, "sent={sent} received={received} lost={} longest_ms={ms}", sent - received)
    }
}

fn open(target: SocketAddr, count: u64, base: u64) -> Result<Vec<Flow>, String> {
    let mut flows = Vec::new();
    for number in 0..count {
        let port = if base == 0 { 0 } else { base + number };
        let port = u16::try_from(port)
            .map_err(|_| format!("port {port} does not exist; give a smaller port-base or fewer sockets"))?;
        let any: SocketAddr = match target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        };
        let fail = |error| format!("cannot open socket {number} (port {port}): {error}");
        let socket = UdpSocket::bind(any).map_err(fail)?;
        socket.connect(target).map_err(fail)?;
        socket.set_nonblocking(true).map_err(fail)?;
        let port = socket.local_addr().map_err(fail)?.port();
        flows.push(Flow { socket, port, asked: Instant::now() });
    }
    Ok(flows)
}

fn ask_all(flows: &mut [Flow], round: u64, gap: Duration, timeout: Duration) -> Tally {
    let mut tally = Tally::default();
    let mut lost = Losses { round, lines: 0 };
    let mut due = Instant::now();
    let mut waiting: Vec<usize> = Vec::new();
    let mut next = 0;
    while (next < flows.len() || !waiting.is_empty()) && !signals::ended() {
        let now = Instant::now();
        due = due.max(now.checked_sub(SLACK).unwrap_or(now));
        while let Some(flow) = flows.get_mut(next).filter(|_| due <= now) {
            tally.sent += 1;
            flow.asked = Instant::now();
            match flow.socket.send(flow.payload(round).as_bytes()) {
                Ok(_) => waiting.push(next),
                Err(error) => lost.tell(flow.port, &error.to_string()),
            }
            next += 1;
            due += gap;
        }
        waiting.retain(|&index| {
            let Some(flow) = flows.get(index) else { return false };
            match flow.answer(round) {
                Ok(Some(name)) => {
                    tally.received += 1;
                    tally.longest = tally.longest.max(flow.asked.elapsed());
                    *tally.names.entry(name).or_default() += 1;
                    return false;
                }
                Ok(None) if flow.asked.elapsed() < timeout => return true,
                Ok(None) => lost.tell(flow.port, "no answer in time"),
                Err(error) => lost.tell(flow.port, &error.to_string()),
            }
            tally.longest = tally.longest.max(flow.asked.elapsed());
            false
        });
        std::thread::sleep(STEP);
    }
    tally
}

impl Flow {
    fn payload(&self, round: u64) -> String {
        format!("{round}.{}", self.port)
    }

    /// The name of who answered this round, or None as long as nobody has.
    fn answer(&self, round: u64) -> std::io::Result<Option<String>> {
        let mut buffer = [0; 512];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let answer = buffer.get(..length).unwrap_or_default();
                    if let Some(name) = answer_to(self.payload(round).as_bytes(), answer) {
                        return Ok(Some(String::from_utf8_lossy(name).into_owned()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

struct Losses {
    round: u64,
    lines: u64,
}

impl Losses {
    fn tell(&mut self, port: u16, error: &str) {
        self.lines += 1;
        if self.lines <= LINES {
            say(&format!("lost round={} port={port} error={error}", self.round));
        }
    }
}
