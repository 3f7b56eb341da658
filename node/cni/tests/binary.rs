//! The binary as a runtime calls it, without an agent.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tombolo_cni::{failure::code, queue};

fn call(variables: &[(&str, &str)], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tombolo-cni"))
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A call that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn config(dir: &Path) -> Value {
    json!({"cniVersion": "1.1.0", "name": "tombolo", "type": "tombolo-cni",
           "socket": dir.join("cni.sock"), "delQueue": dir.join("queue")})
}

fn environment(command: &str) -> Vec<(&str, &str)> {
    vec![
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/var/run/netns/none"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/opt/cni/bin"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"),
    ]
}

fn error(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn version_needs_no_agent_and_no_input() {
    let output = call(&[("CNI_COMMAND", "VERSION")], "");
    assert!(output.status.success());
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn by_hand_it_says_what_it_is() {
    let output = call(&[], "");
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(String::from_utf8(output.stderr).unwrap().contains("CNI plugin"));
}

#[test]
fn without_an_agent_each_command_has_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config["prevResult"] = Value::Null;
    config["cni.dev/valid-attachments"] = json!([]);
    for (command, expected) in
        [("ADD", code::TRY_AGAIN_LATER), ("GC", code::TRY_AGAIN_LATER), ("STATUS", code::NOT_AVAILABLE)]
    {
        let error = error(&call(&environment(command), &config.to_string()));
        assert_eq!(error["code"], json!(expected), "{command}: {error}");
        assert_eq!(error["cniVersion"], "1.1.0");
    }
    config["prevResult"] = json!({"interfaces": [{"name": "eth0", "sandbox": "/n"}], "ips": []});
    let error = error(&call(&environment("CHECK"), &config.to_string()));
    assert_eq!(error["code"], json!(code::TRY_AGAIN_LATER));
}

#[test]
fn del_without_an_agent_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let output = call(&environment("DEL"), &config(dir.path()).to_string());
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let queued = queue::list(&dir.path().join("queue")).unwrap();
    assert_eq!(queued.len(), 1);
    assert_eq!(queued[0].1.as_ref().unwrap().container_id, "c1");
}

#[test]
fn bad_calls_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let good = config(dir.path()).to_string();
    let mut bad_name = environment("DEL");
    bad_name[1].1 = "../../etc/x";
    assert_eq!(error(&call(&bad_name, &good))["code"], json!(code::INVALID_ENVIRONMENT));
    assert_eq!(error(&call(&environment("DEL"), "nonsense"))["code"], json!(code::DECODE));
    assert_eq!(error(&call(&environment("ADD"), ""))["code"], json!(code::DECODE));
    let mut old = config(dir.path());
    old["cniVersion"] = json!("0.3.1");
    for command in ["CHECK", "GC", "STATUS"] {
        let error = error(&call(&environment(command), &old.to_string()));
        assert_eq!(error["code"], json!(code::INCOMPATIBLE_VERSION), "{command}");
    }
    let mut unknown = config(dir.path());
    unknown["bridge"] = json!("br0");
    let error = error(&call(&environment("ADD"), &unknown.to_string()));
    assert_eq!(error["code"], json!(code::UNSUPPORTED_FIELD));
    assert!(error["msg"].as_str().unwrap().contains("bridge"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
