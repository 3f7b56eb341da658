//! The peer of the tunnel: wireguard-go between two network namespaces with a router between them.

use std::{
    fs,
    io::{self, Write},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tombolo_playground::{binaries::cache_dir, image::hex_digest, layout::checkout};

use crate::{
    netns::{Netns, finish},
    process::Running,
};

const PACKAGE: &str = "golang.zx2c4.com/wireguard";
const PORT: &str = "51820";
/// Where it and `wg` look for the sockets of the devices.
const SOCKETS: &str = "/var/run/wireguard";
/// How long it may take to start on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

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
    tunnels: [Running; 2],
}

impl Pair {
    /// Connects two of the program that [`program`] has built.
    pub fn new(program: &Path) -> anyhow::Result<Self> {
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
        let tunnels = [start(&client, program, &devices[0])?, start(&server, program, &devices[1])?];
        let keys = [key()?, key()?];
        for (i, end) in [&client, &server].into_iter().enumerate() {
            let (own, other) = (i + 1, 2 - i);
            let file = std::env::temp_dir().join(format!("{}.key", devices[i]));
            configure(end, &devices[i], &keys[i], &keys[1 - i], &file, other)?;
            end.ip(&format!("address add 198.18.2.{own}/30 dev {}", devices[i]))?;
            // As wg-quick has it: 1500 less what WireGuard adds over IPv6.
            end.ip(&format!("link set {} mtu 1420 up", devices[i]))?;
        }
        let address = Ipv4Addr::new(198, 18, 2, 2);
        Ok(Self { client, server, address, devices, _router: router, tunnels })
    }

    /// The processes of both tunnels.
    pub fn processes(&self) -> Vec<u32> {
        self.tunnels.iter().map(|tunnel| tunnel.0.id()).collect()
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
        // It says there why it ends.
        .stdout(io::stderr())
        .spawn()?;
    let mut running = Running(child);
    listens(&Path::new(SOCKETS).join(format!("{device}.sock")), &mut running, PATIENCE)?;
    Ok(running)
}

/// Waits until the process accepts connections at a socket. `wg` must not come before: it takes a socket that does not
/// listen yet for one that is left over and deletes it, the process then ends, and `wg` falls back to the kernel, where
/// this protocol may not be supported.
fn listens(socket: &Path, process: &mut Running, patience: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let Err(refused) = UnixStream::connect(socket) else { return Ok(()) };
        if let Some(status) = process.0.try_wait()? {
            bail!("wireguard-go ended at once: {status}; its messages are above");
        }
        let socket = socket.display();
        ensure!(started.elapsed() < patience, "{socket} is not served after {patience:?}: {refused}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The program, built when the cache has none: before anything is measured, as the build keeps the machine busy.
pub fn program() -> anyhow::Result<PathBuf> {
    let module = checkout().join("tests/bench/wireguard-go");
    let pins = fs::read_to_string(module.join("go.mod"))? + &fs::read_to_string(module.join("go.sum"))?;
    let digest: String = hex_digest(pins.as_bytes()).chars().take(16).collect();
    let target = cache_dir()?.join("bin").join(digest).join("wireguard-go");
    if target.is_file() {
        return Ok(target);
    }
    fs::create_dir_all(target.parent().unwrap_or(&target))?;
    writeln!(io::stderr(), "building wireguard-go, once")?;
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};

    use super::*;

    fn waits() -> Running {
        Running(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("bench-{name}-{}.sock", process::id()))
    }

    #[test]
    fn a_socket_that_does_not_listen_yet_is_waited_for_and_stays() {
        let path = path("late");
        let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        let (started, delay) = (Instant::now(), Duration::from_millis(300));
        let listener = thread::spawn(move || {
            thread::sleep(delay);
            listen(&fd, Backlog::new(8).unwrap()).unwrap();
            fd
        });
        let result = listens(&path, &mut waits(), Duration::from_secs(10));
        let (waited, exists) = (started.elapsed(), path.exists());
        drop(listener.join().unwrap());
        fs::remove_file(&path).unwrap();
        result.unwrap();
        assert!(exists && waited >= delay, "{waited:?}");
    }

    #[test]
    fn one_that_ends_or_never_listens_is_an_error() {
        let mut ended = Running(Command::new("false").spawn().unwrap());
        let error = listens(&path("ended"), &mut ended, Duration::from_secs(10)).unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
        let error = listens(&path("never"), &mut waits(), Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("is not served after 50ms: No such file"), "{error}");
    }
}
