//! Runs a command in a pod of tombolo: the way to the status sockets, with the rights of the kubeconfig and no
//! open port.

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{AttachParams, ListParams},
};
use tokio::io::AsyncReadExt;

/// The most output that is read, in bytes.
const MAX_OUTPUT: u64 = 64 << 20;

/// Running pods of a component (`node` or `clustermesh`), as (pod, node), ordered by node.
pub async fn pods(
    client: &Client,
    namespace: &str,
    component: &str,
) -> anyhow::Result<Vec<(String, String)>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = api
        .list(&ListParams::default().labels(&format!("app.kubernetes.io/component={component}")))
        .await
        .context("cannot list the pods of tombolo")?;
    let mut pods: Vec<_> = list
        .into_iter()
        .filter(|pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running"))
        .filter_map(|pod| Some((pod.spec?.node_name?, pod.metadata.name?)))
        .collect();
    pods.sort();
    Ok(pods.into_iter().map(|(node, pod)| (pod, node)).collect())
}

/// What the command printed on stdout; its stderr is the error when it fails.
pub async fn run(
    client: &Client,
    namespace: &str,
    pod: &str,
    container: &str,
    command: &[&str],
) -> anyhow::Result<String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = AttachParams::default().container(container).stdout(true).stderr(true);
    let mut process = api
        .exec(pod, command.iter().copied(), &params)
        .await
        .with_context(|| format!("cannot run {} in pod {pod}", command.join(" ")))?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let status = process.take_status();
    let (out, err) = tokio::join!(read(stdout), read(stderr));
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    if status.as_ref().and_then(|s| s.status.as_deref()) != Some("Success") {
        let err = err?;
        // The user called neither the daemon nor the agent.
        let program = command.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let message = err.trim().trim_start_matches(program).trim_start_matches(": ").to_owned();
        bail!(
            "{}",
            if message.is_empty() { format!("{} failed in pod {pod}", command.join(" ")) } else { message }
        );
    }
    out
}

async fn read(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> anyhow::Result<String> {
    let mut text = String::new();
    if let Some(stream) = stream {
        stream.take(MAX_OUTPUT).read_to_string(&mut text).await.context("the pod's output broke off")?;
    }
    Ok(text)
}
