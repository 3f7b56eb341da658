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
