//! Both ends of SCTP by raw sockets, for kernels without SCTP: associations are set up and forgotten.

use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::arguments::Arguments;
use crate::sctp::{Chunk, PROTOCOL, Packet};
use crate::{failures, say, signals, sys};

/// Larger than any packet that is waited for, with its IP header.
const BUFFER: usize = 2048;
/// First of the ports that nobody is registered for.
const FIRST_PORT: u16 = 49_152;

/// The server: INIT to one of its ports is answered by INIT ACK with a cookie that proves who has it, COOKIE ECHO
/// by COOKIE ACK, and INIT to other ports by ABORT. It keeps nothing of an association.
pub fn respond(arguments: &Arguments) -> Result<ExitCode, String> {
    let ports = Arc::new(arguments.ports(9)?);
    let key = Arc::new(RandomState::new());
    let addresses = arguments.addresses()?;
    let sockets = if addresses.is_empty() {
        // A machine may have no IPv6.
        open(Ipv4Addr::UNSPECIFIED.into())
            .map(|v4| open(Ipv6Addr::UNSPECIFIED.into()).into_iter().chain([v4]).collect())
    } else {
        addresses.into_iter().map(open).collect::<Result<Vec<_>, _>>()
    };
    signals::catch()?;
    for socket in sockets? {
        let (ports, key) = (Arc::clone(&ports), Arc::clone(&key));
        thread::spawn(move || {
            loop {
                // An ICMP error about an earlier answer says nothing about the next packet.
                let Ok((packet, from)) = receive(&socket) else { continue };
                if let Some(answer) = packet.ok().and_then(|packet| answer(&packet, &ports, from, &key)) {
                    let _ = socket.send_to(&answer.encode(), (from, 0));
                }
            }
        });
    }
    ports.iter().for_each(|port| say(&format!("listening port={port}")));
    signals::pause(None);
    Ok(ExitCode::SUCCESS)
}

/// The client: sets up one association after the other. Prints one line per attempt, `ok port= ms=`, `aborted port=
/// ms=` or `fail port= ms= error=`, and last `total attempts= ok= aborted= failed=`.
pub fn init(arguments: &Arguments) -> Result<ExitCode, String> {
    let target = arguments.target()?;
    let count = arguments.number("n", 1)?;
    let interval = arguments.milliseconds("interval", 20)?;
    let timeout = arguments.milliseconds("timeout", 2000)?;
    let any = if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = open(any)?;
    socket.connect((target.ip(), 0)).map_err(|error| format!("cannot reach {}: {error}", target.ip()))?;
    signals::catch()?;
    let (mut attempts, mut good, mut aborted) = (0, 0, 0);
    while attempts < count && !signals::ended() {
        if attempts > 0 {
            signals::pause(Some(interval));
        }
        attempts += 1;
        let tag = random();
        let port = FIRST_PORT + u16::try_from(tag % 16_384).unwrap_or_default();
        let started = Instant::now();
        let attempt = Attempt { socket: &socket, target, port, tag, deadline: started + timeout };
        let result = attempt.run();
        let ms = started.elapsed().as_millis();
        match result {
            Ok(true) => {
                good += 1;
                say(&format!("ok port={port} ms={ms}"));
            }
            Ok(false) => {
                aborted += 1;
                say(&format!("aborted port={port} ms={ms}"));
            }
            Err(error) => say(&format!("fail port={port} ms={ms} error={error}")),
        }
    }
    let failed = attempts - good - aborted;
    say(&format!("total attempts={attempts} ok={good} aborted={aborted} failed={failed}"));
    Ok(failures(attempts - good))
}

fn answer(packet: &Packet, ports: &[u16], from: IpAddr, key: &RandomState) -> Option<Packet> {
    let cookie = |own: u32, other: u32| {
        let proof = key.hash_one((own, other, from, packet.source, packet.destination));
        [&own.to_be_bytes()[..], &other.to_be_bytes(), &proof.to_be_bytes()].concat()
    };
    let say =
        |tag, chunk| Some(Packet { source: packet.destination, destination: packet.source, tag, chunk });
    match &packet.chunk {
        Chunk::Init { tag } if !ports.contains(&packet.destination) => say(*tag, Chunk::Abort),
        Chunk::Init { tag } if packet.tag == 0 && *tag != 0 => {
            let own = random();
            say(*tag, Chunk::InitAck { tag: own, cookie: cookie(own, *tag) })
        }
        Chunk::CookieEcho(given) => {
            let other = given.get(4..8).and_then(|tag| tag.try_into().ok()).map(u32::from_be_bytes)?;
            if *given == cookie(packet.tag, other) { say(other, Chunk::CookieAck) } else { None }
        }
        _ => None,
    }
}

/// One association that is being set up.
struct Attempt<'a> {
    socket: &'a UdpSocket,
    target: SocketAddr,
    port: u16,
    tag: u32,
    deadline: Instant,
}

impl Attempt<'_> {
    /// Whether it was set up or aborted.
    fn run(&self) -> Result<bool, String> {
        self.send(0, Chunk::Init { tag: self.tag })?;
        let (tag, cookie) = match self.wait("INIT ACK")? {
            Chunk::Abort => return Ok(false),
            Chunk::InitAck { tag: 0, .. } => return Err("INIT ACK has tag 0".into()),
            Chunk::InitAck { tag, cookie } => (tag, cookie),
            other => return Err(format!("{other:?} came instead of INIT ACK")),
        };
        self.send(tag, Chunk::CookieEcho(cookie))?;
        match self.wait("COOKIE ACK")? {
            Chunk::Abort => Ok(false),
            Chunk::CookieAck => Ok(true),
            other => Err(format!("{other:?} came instead of COOKIE ACK")),
        }
    }

    fn send(&self, tag: u32, chunk: Chunk) -> Result<(), String> {
        let packet = Packet { source: self.port, destination: self.target.port(), tag, chunk };
        self.socket.send(&packet.encode()).map(drop).map_err(|error| format!("cannot send: {error}"))
    }

    /// The next packet for this association. One for its ports with a wrong tag or checksum is an error: nobody
    /// else uses them.
    fn wait(&self, what: &str) -> Result<Chunk, String> {
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("no {what} in time"));
            }
            self.socket.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
            let packet = match receive(self.socket) {
                Ok((packet, _)) => packet?,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(error.to_string()),
            };
            if (packet.source, packet.destination) != (self.target.port(), self.port) {
                continue;
            }
            if packet.tag != self.tag {
                return Err(format!(
                    "{:?} has tag {:#x} instead of {:#x}",
                    packet.chunk, packet.tag, self.tag
                ));
            }
            return Ok(packet.chunk);
        }
    }
}

fn open(address: IpAddr) -> Result<UdpSocket, String> {
    sys::raw_socket(address, PROTOCOL).map_err(|error| {
        format!("cannot open a raw socket on {address}, for which CAP_NET_RAW is needed: {error}")
    })
}

/// One packet, and where it came from.
fn receive(socket: &UdpSocket) -> std::io::Result<(Result<Packet, String>, IpAddr)> {
    let mut buffer = [0; BUFFER];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let bytes = buffer.get(..length).unwrap_or_default();
    let header =
        if from.is_ipv4() { usize::from(bytes.first().copied().unwrap_or_default() & 0xF) * 4 } else { 0 };
    Ok((Packet::decode(bytes.get(header..).unwrap_or_default()), from.ip()))
}

/// A number that others cannot guess and that is not 0.
fn random() -> u32 {
    u32::try_from(RandomState::new().hash_one(Instant::now()) >> 32).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn ask(destination: u16, tag: u32, chunk: Chunk, key: &RandomState) -> Option<Packet> {
        answer(&Packet { source: 50_000, destination, tag, chunk }, &[9], CLIENT, key)
    }

    #[test]
    fn an_association_is_set_up() {
        let key = RandomState::new();
        let packet = ask(9, 0, Chunk::Init { tag: 77 }, &key).unwrap();
        assert_eq!((packet.source, packet.destination, packet.tag), (9, 50_000, 77));
        let Chunk::InitAck { tag, cookie } = packet.chunk else { panic!("{packet:?}") };
        let packet = ask(9, tag, Chunk::CookieEcho(cookie.clone()), &key).unwrap();
        assert_eq!((packet.tag, packet.chunk), (77, Chunk::CookieAck));
        assert_eq!(ask(9, tag ^ 1, Chunk::CookieEcho(cookie.clone()), &key), None, "another tag");
        assert_eq!(ask(9, tag, Chunk::CookieEcho(cookie), &RandomState::new()), None, "another server's");
    }

    #[test]
    fn closed_ports_abort_and_answers_are_not_answered() {
        let key = RandomState::new();
        let packet = ask(10, 0, Chunk::Init { tag: 77 }, &key).unwrap();
        assert_eq!((packet.tag, packet.chunk), (77, Chunk::Abort));
        for chunk in [Chunk::Abort, Chunk::CookieAck, Chunk::InitAck { tag: 1, cookie: Vec::new() }] {
            assert_eq!(ask(10, 77, chunk, &key), None);
        }
    }
}
