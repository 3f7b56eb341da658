//! The peer of the tunnel: wireguard-go between two network namespaces with a router between them.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use tombolo_playground::{binaries::cache_dir, image::hex_digest, layout::checkout};

use crate::{
    netns::{Netns, Running, finish},
    scope::eventually,
};

const PACKAGE: &str = "golang.zx2c4.com/wireguard";
const PORT: &str = "51820";

/// Two ends that reach each other through their tunnel; all goes away when this is dropped.
pub struct Pair {
    /// Where the client runs.
    pub client: Netns,
    /// Where the server runs.
    pub server: Netns,
    /// The server's address in the tunnel.
    pub address: Ipv4Addr,
    /// The tunnel's device at the client and at the server.
    pub devices: [String; 2],
    _router: Netns,
    _tunnels: [Running; 2],
}

impl Pair {
    /// Builds the program when the cache has none, and connects two of them.
    pub fn new() -> anyhow::Result<Self> {
        let program = program()?;
        let (client, server, router) = (Netns::fresh()?, Netns::fresh()?, Netns::fresh()?);
        for (end, device, net) in [(&client, "left", 1), (&server, "right", 2)] {
            end.connect("eth0", &router, device)?;
            end.ip(&format!("address add 198.18.3.{net}/32 dev eth0"))?;
            router.ip(&format!("address add 198.18.4.1/32 dev {device}"))?;
            router.ip(&format!("route add 198.18.3.{net} dev {device}"))?;
            end.ip("route add 198.18.4.1 dev eth0")?;
            end.ip("route add default via 198.18.4.1")?;
        }
        router.run(0, &["sysctl", "-q", "-w", "net.ipv4.ip_forward=1"])?;
        // Their sockets are files of the machine, so the names are used once.
        let devices = [1, 2].map(|end| format!("bwg{end}-{}", process::id()));
        let tunnels = [start(&client, &program, &devices[0])?, start(&server, &program, &devices[1])?];
        let keys = [key()?, key()?];
        for (i, end) in [&client, &server].into_iter().enumerate() {
            let (own, other) = (i + 1, 2 - i);
            let directory = std::env::temp_dir().join(format!("{}.key", devices[i]));
            configure(end, &devices[i], &keys[i], &keys[1 - i], &directory, other)?;
            end.ip(&format!("address add 198.18.2.{own}/30 dev {}", devices[i]))?;
            // As wg-quick has it: 1500 less what WireGuard adds over IPv6.
            end.ip(&format!("link set {} mtu 1420 up", devices[i]))?;
        }
        let address = Ipv4Addr::new(198, 18, 2, 2);
        Ok(Self { client, server, address, devices, _router: router, _tunnels: tunnels })
    }
}

/// A private key and its public key.
fn key() -> anyhow::Result<[String; 2]> {
    let private = finish(Command::new("wg").arg("genkey"), "wg genkey")?;
    let pipe = format!("printf %s '{}' | wg pubkey", private.trim());
    let public = finish(Command::new("sh").args(["-c", &pipe]), "wg pubkey")?;
    Ok([private.trim().to_owned(), public.trim().to_owned()])
}

fn configure(
    end: &Netns,
    device: &str,
    own: &[String; 2],
    other: &[String; 2],
    file: &Path,
    number: usize,
) -> anyhow::Result<()> {
    fs::write(file, &own[0])?;
    let endpoint = format!("198.18.3.{number}:{PORT}");
    let key = file.display().to_string();
    let words = [
        "wg",
        "set",
        device,
        "listen-port",
        PORT,
        "private-key",
        &key,
        "peer",
        &other[1],
        "endpoint",
        &endpoint,
        "allowed-ips",
        "0.0.0.0/0",
    ];
    let configured = end.run(0, &words);
    fs::remove_file(file)?;
    configured.map(drop)
}

fn start(end: &Netns, program: &Path, device: &str) -> anyhow::Result<Running> {
    let program = program.display().to_string();
    let mut command = Command::new("setpriv");
    // Not pinned: it may use all CPUs, as our tunnel may.
    command.args(["--pdeathsig", "KILL", "nsenter", &format!("--net={}", end.path()), &program, device]);
    let child = command
        .env("WG_PROCESS_FOREGROUND", "1")
        .env("LOG_LEVEL", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let running = Running(child);
    eventually(Duration::from_secs(10), || end.run(0, &["wg", "show", device]))?;
    Ok(running)
}

fn program() -> anyhow::Result<PathBuf> {
    let module = checkout().join("tests/bench/wireguard-go");
    let pins = fs::read_to_string(module.join("go.mod"))? + &fs::read_to_string(module.join("go.sum"))?;
    let digest: String = hex_digest(pins.as_bytes()).chars().take(16).collect();
    let target = cache_dir()?.join("bin").join(digest).join("wireguard-go");
    if target.is_file() {
        return Ok(target);
    }
    fs::create_dir_all(target.parent().unwrap_or(&target))?;
    let fresh = target.with_extension(format!("{}.new", process::id()));
    let status = Command::new("go")
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .args(["build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(&fresh)
        .arg(PACKAGE)
        .status()
        .context("cannot run go, which builds wireguard-go")?;
    ensure!(status.success(), "go build {PACKAGE}: {status}; its messages are above");
    fs::rename(&fresh, &target)?;
    Ok(target)
}

#[cfg(all(test, feature = "privileged"))]
mod tests {
    use super::*;
    use crate::{
        netns::{Path, Witness, witnessed},
        throughput::stream,
    };

    #[test]
    fn a_stream_passes_both_tunnels() {
        let pair = Pair::new().unwrap();
        let path = Path { client: &pair.client, server: &pair.server, address: pair.address };
        let ends = [Witness(&pair.client, &pair.devices[0]), Witness(&pair.server, &pair.devices[1])];
        assert!(witnessed(&ends, || stream(&path, 1)).unwrap() > 0.0);
    }
}
