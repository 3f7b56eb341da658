//! The real binary between network namespaces: datagrams, streams, `wg`, kill and restart. Needs root.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_tombolo-tunnel");
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Two namespaces joined by a veth (192.0.2.0/24), each with a tunnel device (10.7.0.0/24).
struct Net {
    names: [String; 2],
    tunnels: [Option<Child>; 2],
    keys: [(String, String); 2],
    dir: tempfile::TempDir,
}

fn output(command: &[&str]) -> Output {
    Command::new(command[0]).args(&command[1..]).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn must(command: &[&str]) -> String {
    let out = output(command);
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !check() {
        assert!(Instant::now() < end, "timed out: {what}");
        sleep(Duration::from_millis(50));
    }
}

impl Net {
    fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let names = [format!("tmbt-{id}-a"), format!("tmbt-{id}-b")];
        let keys = [(), ()].map(|()| {
            let secret = must(&["wg", "genkey"]);
            let public = must(&["sh", "-c", &format!("echo {secret} | wg pubkey")]);
            (secret, public)
        });
        let mut net = Self { names, tunnels: [None, None], keys, dir: tempfile::tempdir().unwrap() };
        net.names.iter().for_each(|name| drop(must(&["ip", "netns", "add", name])));
        let [a, b] = net.names.clone();
        must(&["ip", "-n", &a, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", &b]);
        for i in 0..2 {
            let name = net.names[i].clone();
            must(&["ip", "-n", &name, "addr", "add", &format!("192.0.2.{}/24", i + 1), "dev", "eth0"]);
            must(&["ip", "-n", &name, "link", "set", "eth0", "up"]);
            must(&["ip", "-n", &name, "link", "set", "lo", "up"]);
            net.start(i);
            must(&["ip", "-n", &name, "addr", "add", &format!("10.7.0.{}/24", i + 1), "dev", "tmbwg0"]);
        }
        net
    }

    fn start(&mut self, i: usize) {
        let dir = self.uapi_dir(i);
        let child = Command::new("ip")
            .args(["netns", "exec", &self.names[i], BINARY, "--interface", "tmbwg0", "--uapi-dir"])
            .arg(&dir)
            .spawn()
            .unwrap();
        self.tunnels[i] = Some(child);
        let config = self.dir.path().join(format!("{i}.conf"));
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51871\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.7.0.{}/32\n\
             Endpoint = 192.0.2.{}:51871\nPersistentKeepalive = 25\n",
            self.keys[i].0,
            self.keys[1 - i].1,
            2 - i,
            2 - i
        );
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap().to_owned();
        eventually("configured", || self.wg(i, &["setconf", "tmbwg0", &config]).status.success());
    }

    fn kill(&mut self, i: usize, signal: &str) {
        let mut child = self.tunnels[i].take().unwrap();
        must(&["kill", signal, &child.id().to_string()]);
        child.wait().unwrap();
    }

    fn uapi_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(i.to_string())
    }

    /// `wg` looks into /var/run/wireguard only: give it that view in a mount namespace of its own.
    fn wg(&self, i: usize, args: &[&str]) -> Output {
        let dir = self.uapi_dir(i);
        let script = "mkdir -p /run/wireguard && mount --bind \"$0\" /run/wireguard && exec wg \"$@\"";
        let dir: &Path = &dir;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.names[i], "unshare", "-m", "sh", "-c", script])
            .arg(dir)
            .args(args);
        command.output().unwrap()
    }

    fn exec(&self, i: usize, args: &[&str]) -> Output {
        output(&[&["ip", "netns", "exec", &self.names[i]], args].concat())
    }

    /// One datagram of `size` bytes there and back, fragmented when it must be.
    fn echo(&self, size: usize) -> bool {
        let server = self.enter(1, || UdpSocket::bind("10.7.0.2:0").unwrap());
        let client = self.enter(0, || UdpSocket::bind("10.7.0.1:0").unwrap());
        let (sent, mut got) = (vec![0x5a; size], vec![0; 65_536]);
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        client.send_to(&sent, server.local_addr().unwrap()).unwrap();
        let Ok((len, from)) = server.recv_from(&mut got) else { return false };
        server.send_to(&got[..len], from).unwrap();
        client.recv_from(&mut got).is_ok_and(|(len, _)| got[..len] == sent)
    }

    /// Runs `make` inside a namespace; sockets made there stay there.
    fn enter<T: Send>(&self, i: usize, make: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.names[i])).unwrap();
        std::thread::scope(|scope| {
            let entered = move || {
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                make()
            };
            scope.spawn(entered).join().unwrap()
        })
    }

    fn serve(&self) -> Child {
        let mut server = Command::new("ip");
        server.args(["netns", "exec", &self.names[1], "iperf3", "-s", "-1"]).stdout(Stdio::null());
        let child = server.spawn().unwrap();
        let listens = || String::from_utf8_lossy(&self.exec(1, &["ss", "-ltn"]).stdout).contains(":5201");
        eventually("iperf3 listens", listens);
        child
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for child in self.tunnels.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

#[test]
#[ignore = "needs root; 20 s"]
fn datagrams_and_streams_cross_and_wg_shows_them() {
    let net = Net::new();
    eventually("echo", || net.echo(100));
    for size in [0, 1, 56, 1391, 1392, 4001, 60_000] {
        assert!(net.echo(size), "{size} bytes");
    }
    for direction in [&[][..], &["-R"]] {
        let mut server = net.serve();
        let out = net.exec(0, &[&["iperf3", "-c", "10.7.0.2", "-n", "100M"], direction].concat());
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        server.wait().unwrap();
    }
    let shown = String::from_utf8(net.wg(0, &["show", "tmbwg0", "dump"]).stdout).unwrap();
    let peer: Vec<&str> = shown.lines().nth(1).unwrap().split('\t').collect();
    assert_eq!((peer[0], peer[2], peer[3]), (net.keys[1].1.as_str(), "192.0.2.2:51871", "10.7.0.2/32"));
    assert!(peer[4].parse::<u64>().unwrap() > 1_700_000_000, "handshake time {}", peer[4]);
    assert!(peer[5].parse::<u64>().unwrap() > 100 << 20 && peer[6].parse::<u64>().unwrap() > 100 << 20);
}

#[test]
#[ignore = "needs root; 20 s"]
fn a_stream_survives_kill_and_restart() {
    let mut net = Net::new();
    eventually("echo", || net.echo(100));
    let mut server = net.serve();
    let name = net.names[0].clone();
    let client = Command::new("ip")
        .args(["netns", "exec", &name, "iperf3", "-c", "10.7.0.2", "-t", "8", "-b", "50M", "-J"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_secs(2));
    let index = must(&["ip", "netns", "exec", &name, "cat", "/sys/class/net/tmbwg0/ifindex"]);
    net.kill(0, "-KILL");
    assert_eq!(must(&["ip", "netns", "exec", &name, "cat", "/sys/class/net/tmbwg0/ifindex"]), index);
    assert!(must(&["ip", "-n", &name, "route"]).contains("10.7.0.0/24 dev tmbwg0"));
    net.start(0);
    let out = client.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}");
    server.wait().unwrap();
    // The last whole second carried data again.
    let last =
        text.rsplit("\"bytes\":").nth(3).and_then(|t| t.trim().split(',').next()?.trim().parse::<u64>().ok());
    assert!(last.unwrap() > 1 << 20, "{text}");
    assert_eq!(must(&["ip", "netns", "exec", &name, "cat", "/sys/class/net/tmbwg0/ifindex"]), index);
}

#[test]
#[ignore = "needs root; 20 s"]
fn termination_keeps_the_device_and_delete_removes_it() {
    let mut net = Net::new();
    let exists = |net: &Net| output(&["ip", "-n", &net.names[0], "link", "show", "tmbwg0"]).status.success();
    let busy = net.exec(0, &[BINARY, "--interface", "tmbwg0", "--delete"]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("held by another process"), "{busy:?}");
    let socket = net.uapi_dir(0).join("tmbwg0.sock");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    net.kill(0, "-TERM");
    assert!(exists(&net) && !socket.exists());
    assert!(net.exec(0, &[BINARY, "--interface", "tmbwg0", "--delete"]).status.success());
    assert!(!exists(&net));
    let ethernet = net.exec(0, &[BINARY, "--interface", "eth0"]);
    assert!(String::from_utf8_lossy(&ethernet.stderr).contains("no single-queue TUN device"), "{ethernet:?}");
}
