//! The binary with input that it must refuse.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::process::{Command, Output};

fn call(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tombolo-node"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
#[ignore = "needs root; 20 s"]
fn bad_configuration_is_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, "clusterName: east\nclusterId: 1\nnodeName: n1\nmaskerade: true\n").unwrap();
    let message = refused(&call(&["--config", file], &[]));
    assert!(message.contains("maskerade") && message.lines().count() == 1, "{message}");

    std::fs::write(&path, "clusterName: east\nnodeName: n1\n").unwrap();
    let message = refused(&call(&["--config", file], &[]));
    assert!(message.contains("clusterId") && message.contains("TOMBOLO_CLUSTER_ID"), "{message}");

    let message = refused(&call(&["--config", file, "--cluster-id", "5000"], &[]));
    assert!(message.contains("5000") && message.contains("4095"), "{message}");

    let message = refused(&call(&["--config", file], &[("TOMBOLO_CLUSTER_ID", "1"), ("TOMBOLO_MTU", "9")]));
    assert!(message.contains("mtu"), "{message}");
}

#[test]
#[ignore = "needs root; 20 s"]
fn without_root_it_says_so() {
    let binary = env!("CARGO_BIN_EXE_tombolo-node");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", binary])
        .env_clear()
        .env("PATH", "/usr/bin:/bin:/usr/sbin")
        .env("TOMBOLO_CLUSTER_NAME", "east")
        .env("TOMBOLO_CLUSTER_ID", "1")
        .env("TOMBOLO_NODE_NAME", "n1")
        .output()
        .unwrap();
    let message = refused(&output);
    assert!(message.contains("must run as root"), "{message}");
}

#[test]
#[ignore = "needs root; 20 s"]
fn cleanup_leaves_nothing_and_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for file in [
        "net.d/05-tombolo.conflist",
        "net.d/99-other.conf",
        "bin/tombolo-cni",
        "state/wireguard.key",
        "run/endpoints.json",
        "run/selectors.json",
        "run/cni-del/c1.eth0.json",
        "wg0.sock",
    ] {
        let file = dir.path().join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "{}").unwrap();
    }
    std::fs::create_dir(dir.path().join("bpf")).unwrap();
    // The directories are mount points, as in a pod; the tunnel's device outlived its process.
    let script = "mount -t bpf bpf $BPF && mkdir -p $TOMBOLO_PIN_DIR/links && \
                  mount --bind $TOMBOLO_STATE_DIR $TOMBOLO_STATE_DIR && \
                  mount --bind $TOMBOLO_RUNTIME_DIR $TOMBOLO_RUNTIME_DIR && \
                  ip tuntap add dev tombolo-wg0 mode tun && ip link set tombolo-wg0 up && \
                  ip link add tmb00000000001 type veth peer name x && ip link set tmb00000000001 up && \
                  ip link add other type veth peer name y && ip link set other up && \
                  ip route add 10.9.0.0/24 dev other proto 178 && ip route add 10.8.0.0/24 dev other && \
                  ip -6 route add fd09::/64 dev other proto 178 && ip -6 route add fd08::/64 dev other && \
                  ip tuntap add dev other-tun mode tun && \
                  $BINARY cleanup && $BINARY cleanup && ip -o link && ip route && ip -6 route && \
                  ls -d $TOMBOLO_PIN_DIR 2>/dev/null | sed 's/^/left: /'";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script])
        .env("BINARY", env!("CARGO_BIN_EXE_tombolo-node"))
        .env("TOMBOLO_CLUSTER_NAME", "east")
        .env("TOMBOLO_CLUSTER_ID", "1")
        .env("TOMBOLO_NODE_NAME", "n1")
        .env("TOMBOLO_STATE_DIR", path("state"))
        .env("TOMBOLO_RUNTIME_DIR", path("run"))
        .env("TOMBOLO_CNI_CONF_DIR", path("net.d"))
        .env("TOMBOLO_CNI_BIN_DIR", path("bin"))
        .env("TOMBOLO_CNI_SOCKET", path("cni.sock"))
        .env("TOMBOLO_API_SOCKET", path("agent.sock"))
        .env("TOMBOLO_TUNNEL_SOCKET", path("wg0.sock"))
        .env("BPF", path("bpf"))
        .env("TOMBOLO_PIN_DIR", path("bpf/tombolo"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    for ours in ["tmb", "10.9.0.0", "fd09::", "left: "] {
        assert!(!printed.contains(ours), "{ours}: {printed}");
    }
    assert!(!printed.contains("tombolo-wg0") && printed.contains("other-tun"), "{printed}");
    for kept in ["other@", "10.8.0.0", "fd08::"] {
        assert!(printed.contains(kept), "{kept}: {printed}");
    }
    for gone in ["net.d/05-tombolo.conflist", "bin/tombolo-cni", "wg0.sock"] {
        assert!(!dir.path().join(gone).exists(), "{gone}");
    }
    for empty in ["state", "run"] {
        assert_eq!(std::fs::read_dir(dir.path().join(empty)).unwrap().count(), 0, "{empty}");
    }
    assert!(dir.path().join("net.d/99-other.conf").exists());
}
