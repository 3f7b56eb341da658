//! What is sampled on a path: the throughput of TCP streams and of datagrams, and round trips.

use std::io::{BufRead, BufReader};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    inside::Times,
    netns::{Netns, Path, this_program},
    process::Running,
};

const PORT: &str = "15201";
/// What is in a datagram, bytes: with the headers of UDP and IPv4, as much as a tunnel carries on a link of 1500.
const DATAGRAM: &str = "1392";
/// The first second of a stream is not measured.
const WARM_UP: [&str; 2] = ["--omit", "1"];

/// Gbit/s of one TCP stream after a second of warming up, as received, and the bytes of it.
pub fn stream(path: &Path, seconds: u64) -> anyhow::Result<(f64, u64)> {
    received(&iperf3(path, seconds, &WARM_UP)?, "sum_received")
}

/// Gbit/s of four TCP streams at the same time.
pub fn four_streams(path: &Path, seconds: u64) -> anyhow::Result<(f64, u64)> {
    let [omit, second] = WARM_UP;
    received(&iperf3(path, seconds, &[omit, second, "--parallel", "4"])?, "sum_received")
}

/// Gbit/s of two TCP streams, one in each direction, both together.
pub fn both_ways(path: &Path, seconds: u64) -> anyhow::Result<(f64, u64)> {
    let [omit, second] = WARM_UP;
    let report = iperf3(path, seconds, &[omit, second, "--bidir"])?;
    let there = received(&report, "sum_received")?;
    let back = received(&report, "sum_received_bidir_reverse")?;
    Ok((there.0 + back.0, there.1 + back.1))
}

/// Gbit/s of UDP datagrams that arrive when one process sends as many as it can.
pub fn datagrams(path: &Path, seconds: u64) -> anyhow::Result<(f64, u64)> {
    let report = iperf3(path, seconds, &["--udp", "--bitrate", "0", "--length", DATAGRAM])?;
    received(&report, "sum_received")
}

/// What the client reports.
fn iperf3(path: &Path, seconds: u64, options: &[&str]) -> anyhow::Result<Value> {
    let server = ["iperf3", "--server", "--one-off", "--forceflush", "--port", PORT];
    let _server = listening(path.server, &server, "listening")?;
    let (address, seconds) = (path.address.to_string(), seconds.to_string());
    let client = ["iperf3", "--client", &address, "--port", PORT, "--time", &seconds, "--json"];
    Ok(serde_json::from_str(&path.client.run(0, &[&client[..], options].concat())?)?)
}

/// Gbit/s and bytes of one of the sums at the end of a report.
fn received(report: &Value, sum: &str) -> anyhow::Result<(f64, u64)> {
    let sum = &report["end"][sum];
    let bits = sum["bits_per_second"].as_f64().context("iperf3 reported no rate")?;
    let bytes = sum["bytes"].as_u64().context("iperf3 reported no bytes")?;
    Ok((bits / 1e9, bytes))
}

/// Microseconds of a round trip of 64 bytes in one TCP connection, p50, and the bytes of all of them.
pub fn round_trips(path: &Path, seconds: u64) -> anyhow::Result<(f64, u64)> {
    let (program, address) = (this_program()?, format!("{}:{PORT}", path.address));
    let _server = listening(path.server, &[&program, "echo", &address], "ready")?;
    let client = [program.as_str(), "ping", &address, "--seconds", &seconds.to_string()];
    let times: Times = serde_json::from_str(&path.client.run(0, &client)?)?;
    Ok((times.p50, times.count * 64))
}

/// Starts a server and waits for the line with which it says that it is one.
pub fn listening(netns: &Netns, argv: &[&str], word: &str) -> anyhow::Result<Running> {
    let mut server = Running(netns.command(1, argv).spawn().context("cannot start a server")?);
    let output = server.0.stdout.take().context("the server has no output")?;
    let mut lines = BufReader::new(output).lines();
    for line in lines.by_ref() {
        if line?.contains(word) {
            // It may print more later, and must find somebody who reads.
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(server);
        }
    }
    bail!("{} ended at once: {:?}", argv.join(" "), server.0.wait()?)
}
