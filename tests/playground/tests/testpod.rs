//! The test program's long exchanges: they count, end by themselves, and tell what was lost.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Command, Output},
    thread,
};

/// An echo that answers so many lines and then closes; its address.
fn echo(lines: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        for line in reader.lines().take(lines) {
            writeln!(stream, "{}", line.unwrap()).unwrap();
        }
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    });
    address
}

fn stream(address: &str, count: &str) -> (Output, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_testpod"))
        .args(["stream", address, "-n", count, "--interval", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, said)
}

#[test]
fn a_stream_ends_after_its_count() {
    let (output, said) = stream(&echo(1000), "7");
    assert!(output.status.success(), "{output:?}");
    assert!(said.contains("total sent=7 received=7") && said.contains("broken=0"), "{said}");
}

#[test]
fn a_stream_that_breaks_says_so() {
    let (output, said) = stream(&echo(3), "7");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("break seq=4") && said.contains("sent=4 received=3"), "{said}");
}
