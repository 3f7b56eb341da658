//! The test program against itself on loopback: it counts, ends by itself, and tells what was lost.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, UdpSocket},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_testpod");
const LOOPBACKS: [&str; 2] = ["127.0.0.1", "[::1]"];

/// A server of the test program, on a port of its own.
struct Server {
    process: Child,
    port: String,
}

impl Server {
    fn start(words: &str) -> Self {
        let words = words.split(' ').chain(["--port", "0"]);
        let mut process = Command::new(PROGRAM).args(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim_end().strip_prefix("listening port=").unwrap().to_owned();
        Self { process, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn run(words: &str) -> (Output, String) {
    let output = Command::new(PROGRAM).args(words.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

/// What a client that must succeed says.
fn good(words: &str) -> String {
    let (output, said) = run(words);
    assert!(output.status.success(), "{words}: {output:?}");
    said
}

/// What a client says that must find fault.
fn bad(words: &str) -> String {
    let (output, said) = run(words);
    assert_eq!(output.status.code(), Some(1), "{words}: {output:?}");
    said
}

/// The number behind `key=` in the last line.
fn total(said: &str, key: &str) -> u64 {
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("total "), "{said}");
    let value = last.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')).unwrap();
    value.parse().unwrap()
}

/// An echo that answers so many lines, then waits so long, and then closes; its address.
fn echo(lines: usize, wait: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        for line in reader.lines().take(lines) {
            writeln!(stream, "{}", line.unwrap()).unwrap();
        }
        thread::sleep(wait);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    address
}

/// A UDP server that gives each datagram to `answer`, with the socket and who asked; its port.
fn udp_server(answer: impl Fn(&UdpSocket, &[u8], std::net::SocketAddr) + Send + 'static) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            answer(&socket, &buffer[..length], from);
        }
    });
    port
}

#[test]
fn a_stream_ends_after_its_count() {
    let said = good(&format!("stream {} -n 7 --interval 1", echo(1000, Duration::ZERO)));
    assert!(said.contains("total sent=7 received=7") && said.contains("broken=0"), "{said}");
    let server = Server::start("tcp-echo");
    for host in LOOPBACKS {
        let said = good(&format!("stream {host}:{} -n 7 --interval 1", server.port));
        assert_eq!(total(&said, "received"), 7, "{said}");
    }
}

#[test]
fn a_stream_that_breaks_says_so() {
    let said = bad(&format!("stream {} -n 7 --interval 1", echo(3, Duration::ZERO)));
    assert!(said.contains("break seq=4") && said.contains("sent=4 received=3"), "{said}");
}

#[test]
fn a_stream_waits_no_longer_than_its_patience() {
    let stall = Duration::from_secs(20);
    let started = Instant::now();
    let said = bad(&format!("stream {} -n 7 --interval 1 --patience 300", echo(3, stall)));
    assert!(started.elapsed() < stall / 2, "{:?}", started.elapsed());
    assert!(said.contains("break seq=4 error=nothing came within 300 ms"), "{said}");
    assert!((300..1000).contains(&total(&said, "longest_ms")), "{said}");
}

#[test]
fn a_half_closed_connection_still_carries_the_answer() {
    let server = Server::start("tcp-answer");
    for host in LOOPBACKS {
        let said = good(&format!("half-close {host}:{} --bytes 300000 --over 400", server.port));
        assert!(
            said.contains("total expected=300000 received=300000") && said.contains("broken=0"),
            "{said}"
        );
        // The first byte comes at once: what follows comes after the client has ended its side.
        assert!((350..4000).contains(&total(&said, "ms")), "{said}");
    }
    // An echo has nothing more to say when the client has ended.
    let server = Server::start("tcp-echo");
    let said = bad(&format!("half-close 127.0.0.1:{} --bytes 300000", server.port));
    assert!(said.contains("break at=") && said.contains("broken=1"), "{said}");
}

#[test]
fn datagrams_are_counted_by_who_answers() {
    let server = Server::start("udp-echo --name web-1");
    for host in LOOPBACKS {
        let target = format!("{host}:{}", server.port);
        for command in ["udp-exchange", "udp-unconnected"] {
            let said = good(&format!("{command} {target} -n 5 --interval 1"));
            assert!(said.contains(&format!("answers from={target} name=web-1 count=5")), "{said}");
            assert!(said.contains("total sent=5 received=5 lost=0 longest_ms="), "{said}");
        }
    }
}

#[test]
fn one_socket_asks_several_in_turn() {
    let (one, two) = (Server::start("udp-echo --name one"), Server::start("udp-echo --name two"));
    let said = good(&format!("udp-unconnected 127.0.0.1:{},[::1]:{} -n 10 --interval 1", one.port, two.port));
    assert!(said.contains(&format!("answers from=127.0.0.1:{} name=one count=5", one.port)), "{said}");
    assert!(said.contains(&format!("answers from=[::1]:{} name=two count=5", two.port)), "{said}");
}

#[test]
fn an_answer_from_elsewhere_is_none() {
    let port = udp_server(|_, payload, from| {
        UdpSocket::bind("127.0.0.2:0").unwrap().send_to(payload, from).unwrap();
    });
    let said = bad(&format!("udp-unconnected 127.0.0.1:{port} -n 2 --interval 1 --timeout 100"));
    assert!(said.contains("foreign seq=1 from=127.0.0.2:") && said.contains("lost seq=2"), "{said}");
    assert_eq!((total(&said, "received"), total(&said, "lost")), (0, 2), "{said}");
}

#[test]
fn an_answer_that_comes_too_late_is_said() {
    let port = udp_server(|socket, payload, from| {
        std::thread::sleep(Duration::from_millis(150));
        socket.send_to(payload, from).unwrap();
    });
    let said = bad(&format!("udp-exchange 127.0.0.1:{port} -n 2 --interval 1 --timeout 100"));
    assert!(said.contains("lost seq=1") && said.contains("late seq=2"), "{said}");
    assert_eq!((total(&said, "received"), total(&said, "lost")), (0, 2), "{said}");
}

#[test]
fn a_pause_of_datagrams_is_measured() {
    // The third to the sixth are lost, each waited for 100 ms.
    let port = udp_server(|socket, payload, from| {
        if !(3..=6).contains(&std::str::from_utf8(payload).unwrap().parse::<u32>().unwrap()) {
            socket.send_to(payload, from).unwrap();
        }
    });
    let said = bad(&format!("udp-exchange 127.0.0.1:{port} -n 9 --interval 1 --timeout 100"));
    assert_eq!((total(&said, "received"), total(&said, "lost")), (5, 4), "{said}");
    assert!((400..1500).contains(&total(&said, "longest_ms")), "{said}");
}

#[test]
fn many_sockets_each_get_their_answer() {
    let server = Server::start("udp-echo --name web-1");
    for host in LOOPBACKS {
        let target = format!("{host}:{}", server.port);
        let said = good(&format!("udp-burst {target} --sockets 1200 --rate 4000 -n 2 --interval 1"));
        assert!(said.contains("answers name=web-1 count=2400"), "{said}");
        assert!(said.contains("total sockets=1200 sent=2400 received=2400 lost=0 longest_ms="), "{said}");
    }
}

#[test]
fn a_burst_counts_what_is_lost() {
    // Those from even ports are lost.
    let port = udp_server(|socket, payload, from| {
        if from.port() % 2 == 1 {
            socket.send_to(payload, from).unwrap();
        }
    });
    let said = bad(&format!("udp-burst 127.0.0.1:{port} --sockets 40 --port-base 21000 --timeout 300"));
    assert!(said.contains("total sockets=40 sent=40 received=20 lost=20"), "{said}");
    assert!(said.contains("lost round=1 port=21000 error=no answer in time"), "{said}");
    assert_eq!(said.matches("lost round=").count(), 10, "{said}");
}

#[test]
fn a_server_of_several_addresses_answers_from_the_one_asked() {
    // Both are asked from 127.0.0.1, and from there a socket for all addresses would answer.
    let server = "$T udp-echo --port 9 --address 127.0.0.1,127.0.0.2 & sleep 0.3";
    for asked in ["127.0.0.1", "127.0.0.2"] {
        let said = alone(&format!("{server}; $T udp-unconnected {asked}:9 -n 2 --interval 1"));
        assert!(said.contains(&format!("answers from={asked}:9")), "{said}");
        assert!(said.contains("total sent=2 received=2 lost=0"), "{said}");
    }
}

#[test]
fn http_is_asked_in_both_families() {
    let server = Server::start("http --name me");
    for (url, seen) in [("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")] {
        let said = good(&format!("get http://{url}:{}/", server.port));
        assert!(said.contains("body=name=me") && said.contains(&format!("local={seen}")), "{said}");
    }
}

/// In a network namespace of its own, as raw sockets hear all that comes and need rights that are there in it.
fn alone(script: &str) -> String {
    let script = format!("ip link set lo up; ip addr add 10.9.9.9/32 dev lo; {script}; kill %1");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "bash", "-mc", &script]).env("T", PROGRAM);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn associations_are_set_up_and_refused() {
    let server = "$T sctp-respond --port 9,132 & sleep 0.3";
    for host in LOOPBACKS {
        let said = alone(&format!("{server}; $T sctp-init {host}:132 -n 5"));
        assert_eq!(said.matches("ok port=").count(), 5, "{said}");
        assert!(said.contains("total attempts=5 ok=5 aborted=0 failed=0"), "{said}");
        let said = alone(&format!("{server}; $T sctp-init {host}:10; echo code=$?"));
        assert!(said.contains("aborted port=") && said.contains("ok=0 aborted=1 failed=0\ncode=1"), "{said}");
    }
}

#[test]
fn an_association_that_nobody_answers_fails() {
    // The responder hears only what is for its own address.
    let server = "$T sctp-respond --port 9 --address 10.9.9.9 & sleep 0.3";
    let said = alone(&format!("{server}; $T sctp-init 10.9.9.9:9"));
    assert!(said.contains("ok=1 aborted=0 failed=0"), "{said}");
    let said = alone(&format!("{server}; $T sctp-init 127.0.0.1:9 --timeout 200; echo code=$?"));
    assert!(said.contains("error=no INIT ACK in time") && said.contains("failed=1\ncode=1"), "{said}");
}
