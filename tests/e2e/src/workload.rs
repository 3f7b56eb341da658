//! Pods, deployments and services of the test image, and running commands in them.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::bail;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    networking::v1::NetworkPolicy,
};
use kube::api::{AttachParams, LogParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::{
    Scope,
    address::{pod_ips, service_ips, url},
    eventually,
};

/// The image whose only program is the playground's test pod.
pub const IMAGE: &str = tombolo_playground::images::TEST;

/// How long pods and deployments may take to become ready.
const READY: Duration = Duration::from_secs(60);

/// What a command in a pod printed, and whether it succeeded.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code 0.
    pub success: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that must succeed.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.success {
            Ok(self.stdout)
        } else {
            bail!("the command failed: {}{}", self.stdout, self.stderr)
        }
    }
}

impl Scope {
    /// Creates a NetworkPolicy.
    pub async fn network_policy(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        let policy = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        self.api::<NetworkPolicy>().create(&PostParams::default(), &policy).await?;
        Ok(())
    }

    /// Starts a pod of the test image with label `app` = name, on `node` when given, and waits until it is Ready.
    pub async fn pod(&self, name: &str, node: Option<&str>, args: &[&str]) -> anyhow::Result<Pod> {
        let spec = node.map_or_else(|| json!({}), |node| json!({"nodeName": node}));
        self.pod_with(name, args, spec).await
    }

    /// Like [`Self::pod`], with these fields of the pod's spec in place of the usual ones, and `labels` for its labels.
    pub async fn pod_with(&self, name: &str, args: &[&str], fields: Value) -> anyhow::Result<Pod> {
        let mut spec = pod_spec(args);
        let mut labels = json!({"app": name});
        for (field, value) in fields.as_object().into_iter().flatten() {
            *(if field == "labels" { &mut labels } else { &mut spec[field] }) = value.clone();
        }
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
        self.api::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        self.ready(name).await
    }

    /// Waits until the pod is Ready.
    pub async fn ready(&self, name: &str) -> anyhow::Result<Pod> {
        eventually(READY, || async {
            let pod = self.api::<Pod>().get(name).await?;
            let status = pod.status.as_ref();
            let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            if conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True") {
                return Ok(pod);
            }
            bail!("pod {name} is not ready: {:?}", status.and_then(|s| s.phase.as_deref()));
        })
        .await
    }

    /// The addresses of a pod that is Ready, one of each family.
    pub async fn pod_ips(&self, name: &str) -> anyhow::Result<Vec<IpAddr>> {
        pod_ips(&self.cluster.name, &self.api::<Pod>().get(name).await?)
    }

    /// The URLs of a pod that serves HTTP, one at each of its addresses.
    pub async fn urls(&self, pod: &str, port: u16) -> anyhow::Result<Vec<String>> {
        Ok(self.pod_ips(pod).await?.into_iter().map(|address| url(address, port)).collect())
    }

    /// A deployment of the test image with label `app` = name; waits until all replicas are ready.
    pub async fn deployment(&self, name: &str, replicas: i32, args: &[&str]) -> anyhow::Result<()> {
        let labels = json!({"app": name});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod_spec(args)},
            }
        });
        self.api::<Deployment>().create(&PostParams::default(), &serde_json::from_value(deployment)?).await?;
        self.available(name, replicas).await
    }

    /// Changes the number of replicas and waits until exactly so many are ready.
    pub async fn scale(&self, name: &str, replicas: i32) -> anyhow::Result<()> {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        self.api::<Deployment>().patch(name, &PatchParams::default(), &patch).await?;
        self.available(name, replicas).await
    }

    async fn available(&self, name: &str, replicas: i32) -> anyhow::Result<()> {
        eventually(READY, || async {
            let status = self.api::<Deployment>().get(name).await?.status.unwrap_or_default();
            let ready = status.ready_replicas.unwrap_or(0);
            if ready == replicas && status.replicas.unwrap_or(0) == replicas {
                return Ok(());
            }
            bail!("deployment {name}: {ready} of {replicas} ready");
        })
        .await
    }

    /// A ClusterIP service in front of the pods with label `app` = name; returns its addresses, one of each family.
    pub async fn service(
        &self,
        name: &str,
        ports: &[(&str, &str, u16)],
        annotations: &[(&str, &str)],
    ) -> anyhow::Result<Vec<IpAddr>> {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
            .collect();
        let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
        let service = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"selector": {"app": name}, "ports": ports, "ipFamilyPolicy": "PreferDualStack"},
        });
        let made =
            self.api::<Service>().create(&PostParams::default(), &serde_json::from_value(service)?).await?;
        service_ips(&self.cluster.name, &made)
    }

    /// Runs a command of the test image in a pod of one container and waits for its end.
    pub async fn exec(&self, pod: &str, args: &[&str]) -> anyhow::Result<Output> {
        let command = std::iter::once("/bin/testpod").chain(args.iter().copied());
        let params = AttachParams::default().stdout(true).stderr(true);
        let mut process = self.api::<Pod>().exec(pod, command, &params).await?;
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let (out, err, status) = (process.stdout(), process.stderr(), process.take_status());
        let read_out = async {
            match out {
                Some(mut stream) => stream.read_to_string(&mut stdout).await.map(drop),
                None => Ok(()),
            }
        };
        let read_err = async {
            match err {
                Some(mut stream) => stream.read_to_string(&mut stderr).await.map(drop),
                None => Ok(()),
            }
        };
        tokio::try_join!(read_out, read_err)?;
        let status = match status {
            Some(status) => status.await,
            None => None,
        };
        let success = status.and_then(|s| s.status).as_deref() == Some("Success");
        Ok(Output { success, stdout, stderr })
    }

    /// Everything that the pod has printed.
    pub async fn logs(&self, pod: &str) -> anyhow::Result<String> {
        Ok(self.api::<Pod>().logs(pod, &LogParams::default()).await?)
    }
}

/// The change with which `kubectl rollout restart` lets all pods of a workload be replaced.
pub fn restarted_now() -> Value {
    let stamp = json!({"kubectl.kubernetes.io/restartedAt": format!("{:?}", std::time::SystemTime::now())});
    json!({"spec": {"template": {"metadata": {"annotations": stamp}}}})
}

fn pod_spec(args: &[&str]) -> Value {
    let mut container = json!({
        "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "args": args,
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    });
    let mut grace = 1;
    if args.first() == Some(&"http") {
        // It is ended and taken out of its services at the same time, and serves until both are done. On busy cores
        // Kubernetes alone needs some tenths of a second before it tells that the pod is ending.
        grace = 4;
        container["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 2}}});
        container["readinessProbe"] =
            json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    }
    json!({"containers": [container], "terminationGracePeriodSeconds": grace})
}
