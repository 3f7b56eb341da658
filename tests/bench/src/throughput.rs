//! What is sampled on a path: the throughput of one TCP stream, and round trips.

use std::io::{BufRead, BufReader};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::{
    inside::Times,
    netns::{Netns, Path, Running, this_program},
};

const PORT: &str = "15201";

/// Gbit/s of one TCP stream after a second of warming up, as received, and the bytes of it.
pub fn stream(path: &Path, seconds: u64) -> anyhow::Result<(f64, u64)> {
    let _server = listening(
        path.server,
        &["iperf3", "--server", "--one-off", "--forceflush", "--port", PORT],
        "listening",
    )?;
    let (address, seconds) = (path.address.to_string(), seconds.to_string());
    let client =
        ["iperf3", "--client", &address, "--port", PORT, "--time", &seconds, "--omit", "1", "--json"];
    let report: Value = serde_json::from_str(&path.client.run(0, &client)?)?;
    let sum = report.pointer("/end/sum_received").context("iperf3 reported nothing received")?;
    let bits = sum.get("bits_per_second").and_then(Value::as_f64).context("iperf3 reported no rate")?;
    let bytes = sum.get("bytes").and_then(Value::as_u64).context("iperf3 reported no bytes")?;
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
