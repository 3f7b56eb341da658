//! The peer: what a cluster tells others goes through an etcd of its own, is copied into one of the other cluster, and
//! is watched there. Each hop is a process.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use etcd_client::{Client, WatchOptions, WatchStream};
use futures::TryStreamExt;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{
    ResourceExt,
    runtime::watcher::{self, Event},
};
use tombolo_playground::Cluster;

use super::{
    reporter::{Reporter, say_ready, say_seen},
    slices,
};
use crate::{client::runtime, netns::this_program, process::Running, scope::eventually};

const PREFIX: &str = "bench/";

/// A hop, run as a process.
#[derive(Subcommand)]
pub enum Hop {
    /// From the API server into an etcd.
    #[command(hide = true)]
    Export { kubeconfig: PathBuf, namespace: String, label: String, to: String },
    /// From one etcd into another.
    #[command(hide = true)]
    Copy { from: String, to: String },
    /// Out of an etcd.
    #[command(hide = true)]
    Receive { from: String },
}

/// All of them; they end when this is dropped.
pub struct Chain {
    /// The last hop.
    pub end: Reporter,
    _hops: [Reporter; 2],
    _etcds: [Running; 2],
}

impl Chain {
    /// From the slices of a cluster with this value of the label `bench` to the last hop.
    pub fn start(cluster: &Cluster, namespace: &str, label: &str) -> anyhow::Result<Self> {
        let program = cluster.layout().programs().join("etcd");
        let ((near, near_url), (far, far_url)) = (etcd(&program)?, etcd(&program)?);
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let end = hop(&["receive", &far_url])?;
        let copy = hop(&["copy", &near_url, &far_url])?;
        let export = hop(&["export", &kubeconfig, namespace, label, &near_url])?;
        Ok(Self { end, _hops: [copy, export], _etcds: [near, far] })
    }
}

fn hop(words: &[&str]) -> anyhow::Result<Reporter> {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", &this_program()?, "chain"]).args(words);
    Reporter::start(&mut command).with_context(|| format!("the hop {}", words.join(" ")))
}

/// Starts an etcd with its data in memory, where nothing is left of it: in a mount of its own.
fn etcd(program: &Path) -> anyhow::Result<(Running, String)> {
    const IN_MEMORY: &str = "mount -t tmpfs etcd /dev/shm && exec \"$0\" \"$@\" --data-dir=/dev/shm/etcd";
    let ports = [free_port()?, free_port()?];
    let [client, peer] = ports.map(|port| format!("http://127.0.0.1:{port}"));
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", IN_MEMORY]).arg(program).args([
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync=true".to_owned(),
        "--log-level=error".to_owned(),
    ]);
    let process =
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot run etcd")?);
    eventually(Duration::from_secs(15), || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0])).context("etcd does not answer")
    })?;
    Ok((process, client))
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

impl Hop {
    /// Does it until the process is killed.
    pub fn run(self) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            match self {
                Self::Export { kubeconfig, namespace, label, to } => {
                    export(&kubeconfig, &namespace, &label, &to).await
                }
                Self::Copy { from, to } => copy(&from, &to).await,
                Self::Receive { from } => receive(&from).await,
            }
        })
    }
}

async fn export(kubeconfig: &Path, namespace: &str, label: &str, to: &str) -> anyhow::Result<()> {
    let mut etcd = Client::connect([to], None).await?;
    let config = watcher::Config::default().labels(&format!("bench={label}"));
    let mut events = Box::pin(watcher::watcher(slices(kubeconfig, namespace).await?, config));
    while let Some(event) = events.try_next().await? {
        match event {
            Event::Apply(slice) => {
                let key = format!("{PREFIX}{}", slice.name_any());
                etcd.put(key, serde_json::to_vec(&slice)?, None).await?;
            }
            Event::InitDone => say_ready()?,
            Event::Init | Event::InitApply(_) | Event::Delete(_) => {}
        }
    }
    Ok(())
}

async fn copy(from: &str, to: &str) -> anyhow::Result<()> {
    let mut target = Client::connect([to], None).await?;
    let mut source = watch(from).await?;
    while let Some(response) = source.message().await? {
        for pair in response.events().iter().filter_map(|event| event.kv()) {
            target.put(pair.key(), pair.value(), None).await?;
        }
    }
    Ok(())
}

async fn receive(from: &str) -> anyhow::Result<()> {
    let mut source = watch(from).await?;
    while let Some(response) = source.message().await? {
        for pair in response.events().iter().filter_map(|event| event.kv()) {
            let slice: EndpointSlice = serde_json::from_slice(pair.value())?;
            let conditions =
                slice.endpoints.iter().flatten().filter_map(|endpoint| endpoint.conditions.as_ref());
            let ready = conditions.into_iter().all(|conditions| conditions.ready == Some(true));
            say_seen(&slice.name_any(), ready)?;
        }
    }
    Ok(())
}

/// A watch that has begun.
async fn watch(url: &str) -> anyhow::Result<WatchStream> {
    let all = WatchOptions::new().with_prefix();
    let mut stream = Client::connect([url], None).await?.watch(PREFIX, Some(all)).await?;
    let first = stream.message().await?.context("the watch ends at once")?;
    ensure!(first.created(), "the watch does not begin: {}", first.cancel_reason());
    say_ready()?;
    Ok(stream)
}
