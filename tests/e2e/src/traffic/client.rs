//! A pod with a client of each kind.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::api::{DeleteParams, LogParams};
use serde_json::{Value, json};

use super::{Class, ECHO, Flow, HTTP};
use crate::{IMAGE, Scope, eventually, url};

/// More requests than a client makes before it is ended.
const FOREVER: &str = "1000000";
/// How long a service or a policy may take to be in force.
const SETTLE: Duration = Duration::from_secs(30);
/// A pause from here on is printed, in milliseconds.
const GAP: &str = "100";
/// A stream that stalls for longer is broken, in milliseconds. A tunnel that has been started again may take half a minute
/// until the other end opens a session, and TCP is silent for as long again after that.
const PATIENCE: &str = "120000";
/// How long a client may take to print its totals, in seconds: one that stalls does so when it gives up.
const GRACE: u32 = 130;

/// A pod that asks one server without end, by TCP, UDP and HTTP.
pub(super) struct Client<'a> {
    pub(super) name: String,
    pub(super) class: Class,
    scope: &'a Scope,
    node: String,
    target: IpAddr,
}

impl<'a> Client<'a> {
    pub(super) fn new(scope: &'a Scope, name: &str, class: Class, node: &str, target: IpAddr) -> Self {
        Self { name: name.to_owned(), class, scope, node: node.to_owned(), target }
    }

    /// One beside it that a policy keeps away from the same server.
    pub(super) fn denied(&self) -> Self {
        Self {
            name: format!("{}-denied", self.name),
            class: Class::Denied,
            scope: self.scope,
            node: self.node.clone(),
            target: self.target,
        }
    }

    /// Starts it when the server can be reached, or cannot.
    pub(super) async fn start(&self) -> anyhow::Result<()> {
        let url = url(self.target, HTTP);
        let echo = SocketAddr::new(self.target, ECHO).to_string();
        let denied = self.class == Class::Denied;
        // A pod of the same label first: a service takes a moment to lead anywhere, and a policy to be in force.
        let probe = format!("probe-{}", self.name);
        let fields = json!({"nodeName": self.node, "labels": {"app": self.name}});
        self.scope.pod_with(&probe, &["pause"], fields).await?;
        eventually(SETTLE, || async {
            let out = self.scope.exec(&probe, &["get", &url, "-n", "3", "--timeout", "500"]).await?;
            if denied {
                ensure!(!out.stdout.contains("ok "), "reached: {out:?}");
            } else {
                out.ok()?;
            }
            Ok(())
        })
        .await
        .with_context(|| format!("{} before anything broke", self.name))?;
        let containers: Vec<Value> = if denied {
            vec![
                container("udp", &["udp-exchange", &echo, "--interval", "20", "--timeout", "100"]),
                container("get", &["get", &url, "-n", FOREVER, "--interval", "200", "--timeout", "300"]),
            ]
        } else {
            vec![
                container("stream", &["stream", &echo, "--gap", GAP, "--patience", PATIENCE]),
                container("udp", &["udp-exchange", &echo, "--gap", GAP]),
                container("get", &["get", &url, "-n", FOREVER, "--interval", "50"]),
            ]
        };
        let spec =
            json!({"nodeName": self.node, "containers": containers, "terminationGracePeriodSeconds": GRACE});
        self.scope.pod_with(&self.name, &[], spec).await?;
        Ok(())
    }

    /// Waits until all containers run, and says how often each was started again: the runtime may fail to start one at
    /// first.
    pub(super) async fn restarts(&self) -> anyhow::Result<Vec<i32>> {
        let pods = self.scope.api::<Pod>();
        eventually(SETTLE, || async { restarts_of(&pods.get(&self.name).await?) }).await
    }

    /// Ends it and reads what it saw. Fails if a container was started again since it had been so often, as it has
    /// forgotten what failed.
    pub(super) async fn finish(&self, restarts: &[i32]) -> anyhow::Result<Vec<Flow>> {
        let pods = self.scope.api::<Pod>();
        let pod = pods.get(&self.name).await?;
        let now = restarts_of(&pod)?;
        ensure!(
            now == restarts,
            "containers of client {} ended: {restarts:?} times, then {now:?}; {:?}",
            self.name,
            ends_of(&pod)
        );
        let kinds: &[&str] =
            if self.class == Class::Denied { &["udp", "get"] } else { &["stream", "udp", "get"] };
        let params = |kind: &&str| LogParams {
            container: Some((*kind).to_owned()),
            follow: true,
            timestamps: true,
            ..LogParams::default()
        };
        let params: Vec<_> = kinds.iter().map(params).collect();
        let logs = try_join_all(params.iter().map(|params| pods.logs(&self.name, params)));
        // SIGTERM makes them print their totals, which those who follow the log still see.
        let end = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            pods.delete(&self.name, &DeleteParams::default()).await
        };
        let (logs, _) = tokio::try_join!(logs, end)?;
        let read =
            |(kind, log): (&&str, String)| Flow::read(format!("{}/{kind}", self.name), self.class, &log);
        kinds.iter().zip(logs).map(read).collect()
    }
}

/// How often each container was started again; an error if one does not run.
fn restarts_of(pod: &Pod) -> anyhow::Result<Vec<i32>> {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    let runs = |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
    ensure!(!statuses.is_empty() && statuses.iter().all(runs), "not all containers run: {statuses:?}");
    Ok(statuses.iter().map(|status| status.restart_count).collect())
}

/// How the containers that were started again have ended last.
fn ends_of(pod: &Pod) -> Vec<&ContainerStateTerminated> {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().filter_map(|status| status.last_state.as_ref()?.terminated.as_ref()).collect()
}

/// A container that runs the test program.
pub(super) fn container(name: &str, args: &[&str]) -> Value {
    let pod = json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    json!({
        "name": name, "image": IMAGE, "imagePullPolicy": "Never", "args": args, "env": [pod],
        // Or else whatever else starts on a busy node, which does ask for some, would pause it.
        "resources": {"requests": {"cpu": "20m"}},
        // What it printed last is told with how it ended.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}
