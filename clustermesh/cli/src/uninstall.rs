//! `tombolo uninstall`: the release, then what the agents left on the nodes, then the resource definitions.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, bail};
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Namespace, Pod},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::{
    agents::ask_daemon,
    cluster::ClusterArgs,
    delete, exec,
    helm::{self, Chart, RELEASE},
    mesh,
    output::progress,
};

const CLEANUP: &str = "tombolo-cleanup";

/// What `tombolo uninstall` takes.
#[derive(clap::Args)]
#[command(
    after_help = "The cluster leaves its mesh. Pods keep running but lose their network: nodes are NotReady until another CNI plugin is \
    installed.\n\nExample:\n  tombolo uninstall --context east"
)]
pub struct Args {
    /// How long to wait for the nodes to be clean, in seconds
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

/// Removes tombolo from the cluster and its nodes.
pub async fn run(cluster: &ClusterArgs, args: &Args) -> anyhow::Result<()> {
    helm::available().await?;
    let client = cluster.client().await?;
    let namespace = &cluster.namespace;
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let Some(agent) = sets.get_opt("tombolo-node").await.context("cannot reach the API server")? else {
        bail!("tombolo is not installed in namespace {namespace}: name another one by --namespace");
    };

    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let config = configs.get("tombolo-config").await.context("cannot read the ConfigMap tombolo-config")?;

    leave_mesh(cluster).await;
    progress("removing the release");
    let mut flags = vec!["uninstall".to_owned(), RELEASE.to_owned(), "--wait".to_owned()];
    flags.extend(cluster.helm_flags());
    helm::run(&flags).await?;
    wait_gone(&client, namespace, args.timeout).await?;
    progress("cleaning the nodes");
    keep_config(&configs, config).await?;
    clean_nodes(&client, namespace, &agent, args.timeout).await?;
    progress("removing resource definitions and the namespace");
    delete_crds(&client).await?;
    delete_namespace(&client, namespace).await?;
    progress("tombolo is removed");
    Ok(())
}

/// A cluster without tombolo is no member. One that cannot leave is uninstalled all the same.
async fn leave_mesh(cluster: &ClusterArgs) {
    let left = async {
        let members = mesh::status(cluster).await?.members.len();
        if members > 1 {
            let client = cluster.client().await?;
            progress(ask_daemon(&client, &cluster.namespace, &["leave"]).await?.trim());
        }
        Ok::<_, anyhow::Error>(())
    };
    if let Err(error) = left.await {
        progress(&format!(
            "the mesh does not know that this cluster leaves ({error:#}): if it is in one, run `tombolo disconnect \
             --cluster NAME` for another member"
        ));
    }
}

/// The agents must have ended before their traces are removed, or they would put them back.
async fn wait_gone(client: &Client, namespace: &str, timeout: u64) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels("app.kubernetes.io/name=tombolo");
    let gone = async {
        while !pods.list(&params).await.context("cannot list pods")?.items.is_empty() {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    match tokio::time::timeout(Duration::from_secs(timeout), gone).await {
        Ok(result) => result,
        Err(_) => bail!("pods of tombolo are still ending after {timeout} s: run the command again"),
    }
}

/// The agent's configuration says where its traces are; the release takes it along.
async fn keep_config(configs: &Api<ConfigMap>, config: ConfigMap) -> anyhow::Result<()> {
    let kept: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": CLEANUP}, "data": config.data}))?;
    match configs.create(&PostParams::default(), &kept).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(drop).context("cannot keep the configuration for the cleanup"),
    }
}

/// Runs `tombolo-node cleanup` once on every node, in a DaemonSet that has the agent's image, mounts and rights.
async fn clean_nodes(
    client: &Client,
    namespace: &str,
    agent: &DaemonSet,
    timeout: u64,
) -> anyhow::Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let cleanup = cleanup_set(agent).context("the DaemonSet tombolo-node is not one of this version")?;
    match sets.create(&PostParams::default(), &cleanup).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error).context("cannot start the cleanup"),
    }
    let done = async {
        loop {
            let status =
                sets.get(CLEANUP).await.context("cannot read the cleanup")?.status.unwrap_or_default();
            if status.desired_number_scheduled > 0 && status.number_ready >= status.desired_number_scheduled {
                return Ok::<_, anyhow::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let result = tokio::time::timeout(Duration::from_secs(timeout), done).await;
    if result.is_err() {
        let clean = exec::pods(client, namespace, "cleanup").await?.len();
        bail!(
            "after {timeout} s only {clean} nodes are clean: bring the others up and run the command again, or run \
             `tombolo-node cleanup` on them"
        );
    }
    sets.delete(CLEANUP, &DeleteParams::foreground()).await.context("cannot end the cleanup")?;
    result?
}

fn cleanup_set(agent: &DaemonSet) -> anyhow::Result<DaemonSet> {
    let pod = agent.spec.template.spec.clone().context("it has no pod template")?;
    let container = pod.containers.iter().find(|c| c.name == "agent").context("it has no container agent")?;
    // Cleaning needs no rights in the cluster.
    let kept = |name: &str| !matches!(name, "ca" | "token");
    let mounts: Vec<_> = container.volume_mounts.iter().flatten().filter(|m| kept(&m.name)).collect();
    let mut volumes: Vec<_> = pod.volumes.iter().flatten().filter(|v| kept(&v.name)).cloned().collect();
    for volume in volumes.iter_mut().filter(|v| v.name == "config") {
        if let Some(map) = &mut volume.config_map {
            CLEANUP.clone_into(&mut map.name);
        }
    }
    let labels = BTreeMap::from([("app.kubernetes.io/component", "cleanup")]);
    Ok(serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": CLEANUP},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true, "dnsPolicy": "Default", "tolerations": [{"operator": "Exists"}],
                    "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
                    "imagePullSecrets": pod.image_pull_secrets, "nodeSelector": pod.node_selector,
                    "initContainers": [{
                        "name": "cleanup", "image": container.image, "imagePullPolicy": container.image_pull_policy,
                        "command": ["/usr/bin/tombolo-node", "cleanup", "--config", "/etc/tombolo/node.yaml"],
                        "env": [{"name": "TOMBOLO_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "securityContext": container.security_context, "volumeMounts": mounts,
                    }],
                    "containers": [{
                        "name": "done", "image": container.image, "imagePullPolicy": container.image_pull_policy,
                        "command": ["/usr/bin/tombolo-node", "pause"],
                    }],
                    "volumes": volumes,
                }
            }
        }
    }))?)
}

/// Their objects go with the definitions.
async fn delete_crds(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for manifest in Chart::crds() {
        let crd: CustomResourceDefinition = serde_yaml_ng::from_slice(manifest)?;
        let name = crd.name_any();
        delete::if_present(&api, &name).await.with_context(|| format!("cannot delete {name}"))?;
    }
    Ok(())
}

/// The namespace itself goes with the release.
async fn delete_namespace(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    if !delete::if_present(&api, namespace).await.context("cannot delete the namespace")? {
        return Ok(());
    }
    for _ in 0..200 {
        if api.get_opt(namespace).await.context("cannot read the namespace")?.is_none() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    bail!(
        "the namespace {namespace} is still terminating: `kubectl get ns {namespace} -o yaml` shows what holds it"
    )
}
