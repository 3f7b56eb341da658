//! Input that must be refused: one sentence with what is wrong and what to do, a failure, and nothing changed.

use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::ConfigMap};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tombolo_e2e::{
    Cluster, SYSTEM,
    command::{refused, succeeds, tombolo},
    machine::{self, machines, product},
};

/// What an installation would change.
async fn versions() -> anyhow::Result<Vec<Option<String>>> {
    let client = Cluster::attach("east").await?.client;
    let config = Api::<ConfigMap>::namespaced(client.clone(), SYSTEM).get("tombolo-config").await?;
    let agents = Api::<DaemonSet>::namespaced(client, SYSTEM).get("tombolo-node").await?;
    Ok(vec![config.resource_version(), agents.metadata.generation.map(|g| g.to_string())])
}

#[tokio::test]
#[ignore = "needs 2 clusters; 20 s"]
async fn install_refuses_bad_names_ids_and_another_identity() {
    let before = versions().await.unwrap();
    let cases: [(&[&str], &[&str]); 7] = [
        (&[], &["--cluster-name", "unique in the mesh"]),
        (&["--cluster-name", "Bad_Name"], &["Bad_Name", "lower-case"]),
        (&["--cluster-name", "x", "--cluster-id", "0"], &["0", "1 to 4095"]),
        (&["--cluster-name", "x", "--cluster-id", "5000"], &["5000", "1 to 4095"]),
        (&["--cluster-name", "other", "--cluster-id", "1"], &["installed as east", "nothing was changed"]),
        (
            &["--cluster-name", "east", "--cluster-id", "9"],
            &["id 9", "tombolo uninstall", "nothing was changed"],
        ),
        (
            &["--cluster-name", "east", "--cluster-id", "1", "--api-server", "x"],
            &["--api-server", "host:port"],
        ),
    ];
    for (arguments, words) in cases {
        let arguments: Vec<_> = ["install"].iter().chain(arguments).copied().collect();
        refused(&tombolo("east", &arguments).unwrap(), words).unwrap();
    }
    assert_eq!(versions().await.unwrap(), before);
}

#[tokio::test]
#[ignore = "needs 2 clusters; 20 s"]
async fn missing_helm_and_wrong_kubeconfigs_are_named() {
    let kubeconfig = machines("east").unwrap().kubeconfig();
    let output = Command::new(product("tombolo").unwrap())
        .env("KUBECONFIG", kubeconfig)
        .env("PATH", "/nonexistent")
        .args(["install", "--cluster-name", "east", "--cluster-id", "1"])
        .output()
        .unwrap();
    refused(&output, &["helm is not in PATH", "install it"]).unwrap();
    refused(
        &tombolo("east", &["status", "--kubeconfig", "/nonexistent"]).unwrap(),
        &["/nonexistent", "--kubeconfig"],
    )
    .unwrap();
    refused(&tombolo("nowhere", &["status"]).unwrap(), &["nowhere", "get-contexts"]).unwrap();
    refused(&tombolo("east", &["uninstall", "--namespace", "nowhere"]).unwrap(), &["nowhere", "--namespace"])
        .unwrap();
}

#[tokio::test]
#[ignore = "needs 2 clusters; 20 s"]
async fn a_token_cut_short_is_refused_before_anything_is_stored() {
    let token = succeeds("east", &["token", "create"]).unwrap();
    let cut = &token[..token.len() / 2];
    refused(&tombolo("east", &["connect", cut]).unwrap(), &["cut short", "tombolo token create"]).unwrap();
    refused(&tombolo("east", &["connect", "hello"]).unwrap(), &["no tombolo token", "tombolo1."]).unwrap();
    let secrets = Api::<k8s_openapi::api::core::v1::Secret>::namespaced(
        Cluster::attach("east").await.unwrap().client,
        SYSTEM,
    );
    assert!(secrets.get_opt("tombolo-peer").await.unwrap().is_none());
}

#[test]
#[ignore = "needs 2 clusters; 20 s"]
fn the_agent_names_the_kernel_that_is_too_old() {
    // A personality of Linux: version 6.x calls itself 2.6.
    let output = Command::new("setarch")
        .args([std::env::consts::ARCH, "--uname-2.6"])
        .arg(product("tombolo-node").unwrap())
        .env("TOMBOLO_CLUSTER_NAME", "east")
        .env("TOMBOLO_CLUSTER_ID", "1")
        .env("TOMBOLO_NODE_NAME", "n")
        .output()
        .unwrap();
    refused(&output, &["Linux 2.6.", "too old", "6.6 or later"]).unwrap();
}

#[test]
#[ignore = "needs 2 clusters; 20 s"]
fn daemons_name_the_unknown_field_and_the_missing_right() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bad-{}.yaml", std::process::id()));
    std::fs::write(&file, "clusterName: east\nclusterId: 1\nnodeName: n\nlissten: x\n").unwrap();
    let path = file.to_str().unwrap();
    let node = Command::new(product("tombolo-node").unwrap()).args(["--config", path]).output().unwrap();
    let daemon = Command::new(product("tombolo-clustermesh").unwrap())
        .args(["run", "--config", path])
        .output()
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    for output in [&node, &daemon] {
        refused(output, &["lissten", path, "expected ", "one of `"]).unwrap();
    }
    for program in ["tombolo-node", "tombolo-tunnel"] {
        let output = Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(product(program).unwrap())
            .env("TOMBOLO_CLUSTER_NAME", "east")
            .env("TOMBOLO_CLUSTER_ID", "1")
            .env("TOMBOLO_NODE_NAME", "n")
            .output()
            .unwrap();
        refused(&output, &["root"]).unwrap();
    }
}

/// Calls the plugin in a node as a runtime does; its exit code and the error object that it printed.
fn cni(variables: &[&str]) -> anyhow::Result<(bool, Value)> {
    let machines = machines("east")?;
    let argv: Vec<String> = std::iter::once("env")
        .chain(variables.iter().copied())
        .chain(["CNI_PATH=/opt/cni/bin", "/opt/cni/bin/tombolo-cni"])
        .map(str::to_owned)
        .collect();
    let mut child = machines
        .command("node-1", &argv)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let config = json!({
        "cniVersion": "1.1.0", "name": "tombolo", "type": "tombolo-cni",
        "socket": "/run/tombolo/cni.sock", "delQueue": "/run/tombolo/cni-del",
    });
    if let Some(mut input) = child.stdin.take() {
        // As runtimes do: what the plugin refuses before it reads the configuration breaks the pipe.
        let _ = input.write_all(config.to_string().as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok((output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default()))
}

#[tokio::test]
#[ignore = "needs 2 clusters; 20 s"]
async fn the_plugin_refuses_bad_calls_by_the_codes_of_the_specification() {
    let scope = Cluster::attach("east").await.unwrap().scope("cni").await.unwrap();
    scope.pod("pod", Some("node-1"), &["pause"]).await.unwrap();
    let call = |id: &str, netns: &str, name: &str| {
        [
            "CNI_COMMAND=ADD".to_owned(),
            format!("CNI_CONTAINERID={id}"),
            format!("CNI_NETNS={netns}"),
            format!("CNI_IFNAME={name}"),
            "CNI_ARGS=K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c".to_owned(),
        ]
    };
    let here = "/proc/self/ns/net";
    let cases = [
        (call("../x", here, "eth0"), 4, "container id \"../x\""),
        (call("bad-input", here, "a-name-that-is-too-long"), 4, "a-name-that-is-too-long"),
        (call("bad-input", here, "a/b"), 4, "a/b"),
        (call("bad-input", "/run/netns/vanished", "eth0"), 8, "/run/netns/vanished"),
    ];
    for (variables, code, word) in cases {
        let variables: Vec<_> = variables.iter().map(String::as_str).collect();
        let (success, error) = cni(&variables).unwrap();
        assert!(!success && error["code"] == code, "{variables:?}: {error}");
        assert!(error["msg"].as_str().unwrap_or_default().contains(word), "{error}");
    }
    let (success, error) = cni(&["CNI_COMMAND=NONE"]).unwrap();
    assert!(!success && error["code"] == 4, "{error}");
    let (success, error) =
        cni(&taken_interface(&scope.namespace).iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert!(!success && error["code"] == 100, "{error}");
    assert!(error["msg"].as_str().unwrap_or_default().contains("eth0"), "{error}");
    // Deleting what never was is no error.
    let del = ["CNI_COMMAND=DEL", "CNI_CONTAINERID=never-was", "CNI_IFNAME=eth0"];
    assert!(cni(&del).unwrap().0);
}

/// An ADD for the pod of this namespace, which has its interface already.
#[expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]
fn taken_interface(scope: &str) -> Vec<String> {
    let machines = machines("east").unwrap();
    let script = ["cat", "/run/tombolo/endpoints.json"];
    let state: Value = serde_json::from_str(&machine::run(&machines, "node-1", &script).unwrap()).unwrap();
    let endpoints = state["endpoints"].as_array().unwrap();
    let endpoint = endpoints.iter().find(|endpoint| endpoint["pod"]["namespace"] == scope).unwrap();
    let text = |path: &str| endpoint.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (namespace, name, uid) = (text("/pod/namespace"), text("/pod/name"), text("/pod/uid"));
    vec![
        "CNI_COMMAND=ADD".to_owned(),
        format!("CNI_CONTAINERID={}", text("/attachment/container")),
        format!("CNI_NETNS={}", text("/netns")),
        format!("CNI_IFNAME={}", text("/attachment/interface")),
        format!("CNI_ARGS=K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}"),
    ]
}
