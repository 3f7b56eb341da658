//! What happens to cluster east. Each returns when the cluster says that all is well again.

use std::{future::Future, pin::Pin, time::Duration};

use anyhow::{Context, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    coordination::v1::Lease,
    core::v1::Pod,
};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use tombolo_e2e::{
    Cluster, SYSTEM, eventually,
    machine::{machines, processes, processes_of_all, signal},
};
use tombolo_playground::{LinkState, Playground, layout::Layout};

/// How long the cluster may take until all is well again.
const LIMIT: Duration = Duration::from_secs(90);
/// How long a link is impaired.
const IMPAIRED: Duration = Duration::from_secs(8);

/// Something that happens to a cluster.
pub type Act = fn(&Cluster) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + '_>>;

pub const AGENTS_KILLED: Act = |cluster| Box::pin(killed(cluster, "tombolo-node"));
pub const AGENTS_FROZEN: Act = |cluster| Box::pin(agents_frozen(cluster));
pub const TUNNELS_KILLED: Act = |cluster| Box::pin(killed(cluster, "tombolo-tunnel"));
pub const LEADER_KILLED: Act = |cluster| Box::pin(leader_killed(cluster));
pub const ETCD_AWAY: Act = |cluster| Box::pin(etcd_away(cluster));
pub const CONTAINERD_RESTARTS: Act = |cluster| Box::pin(component_restarts(cluster, "containerd"));
pub const KUBELET_RESTARTS: Act = |cluster| Box::pin(component_restarts(cluster, "kubelet"));
pub const LINK_DELAYED: Act = |_| Box::pin(impaired(LinkState { delay_ms: 40, ..LinkState::default() }));
pub const LINK_LOSES: Act = |_| Box::pin(impaired(LinkState { loss_percent: 2, ..LinkState::default() }));
pub const LINK_NARROW: Act = |_| Box::pin(impaired(LinkState { mtu: Some(1400), ..LinkState::default() }));

/// All processes of a program die.
async fn killed(cluster: &Cluster, program: &str) -> anyhow::Result<()> {
    let pids = processes_of_all(&machines(&cluster.name)?, program)?;
    signal(&pids, "KILL")?;
    restarted(cluster, program, &pids).await
}

async fn agents_frozen(cluster: &Cluster) -> anyhow::Result<()> {
    let pids = processes_of_all(&machines(&cluster.name)?, "tombolo-node")?;
    signal(&pids, "STOP")?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    // A process that is stopped dies all the same.
    signal(&pids, "KILL")?;
    restarted(cluster, "tombolo-node", &pids).await
}

async fn leader_killed(cluster: &Cluster) -> anyhow::Result<()> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let lease = async || leases.get("tombolo-clustermesh").await?.spec.context("no lease");
    let leader =
        lease().await?.holder_identity.filter(|holder| !holder.is_empty()).context("nobody leads")?;
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let node = pods.get(&leader).await?.spec.and_then(|s| s.node_name).context("not scheduled")?;
    let pids = processes(&machines(&cluster.name)?, &node, "tombolo-clustermesh")?;
    signal(&pids, "KILL")?;
    let killed = Timestamp::now();
    // The name of the dead in the lease is no leader; whoever renews it after that is one, the same pod maybe.
    eventually(Duration::from_secs(15), || async {
        let renewed = lease().await?.renew_time.context("nobody has renewed the lease")?;
        ensure!(renewed.0 > killed, "nobody leads since {leader} is dead");
        Ok(())
    })
    .await?;
    restarted(cluster, "tombolo-clustermesh", &pids).await
}

async fn etcd_away(cluster: &Cluster) -> anyhow::Result<()> {
    let machines = machines(&cluster.name)?;
    machines.kill("control-plane", "etcd")?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    machines.restart("control-plane", "etcd")?;
    eventually(LIMIT, || async {
        ensure!(machines.is_api_ready()?, "the API server is not ready");
        all_ready(cluster).await
    })
    .await
}

/// The component of all nodes is killed and started again.
async fn component_restarts(cluster: &Cluster, component: &str) -> anyhow::Result<()> {
    let machines = machines(&cluster.name)?;
    machines.nodes().iter().try_for_each(|node| machines.restart(node, component))?;
    eventually(LIMIT, || all_ready(cluster)).await
}

/// The link between the clusters is made worse for a while.
async fn impaired(state: LinkState) -> anyhow::Result<()> {
    let playground = Playground::attach(&Layout::from_environment())?;
    playground.set_link("east", "west", state)?;
    tokio::time::sleep(IMPAIRED).await;
    Ok(playground.link_restore("east", "west")?)
}

/// Waits until no process of `dead` is left, every node has others of that program again, and all are Ready.
async fn restarted(cluster: &Cluster, program: &str, dead: &[i32]) -> anyhow::Result<()> {
    let machines = machines(&cluster.name)?;
    eventually(LIMIT, || async {
        for node in machines.nodes() {
            let now = processes(&machines, &node, program)?;
            ensure!(
                !now.is_empty() && !now.iter().any(|pid| dead.contains(pid)),
                "{program} on {node}: {now:?}"
            );
        }
        all_ready(cluster).await
    })
    .await
}

async fn all_ready(cluster: &Cluster) -> anyhow::Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let status = sets.get("tombolo-node").await?.status.context("no status")?;
    let (up, wanted) = (status.number_ready, status.desired_number_scheduled);
    ensure!(up == wanted, "{up} of {wanted} agents ready");
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), SYSTEM);
    let status = deployments.get("tombolo-clustermesh").await?.status.context("no status")?;
    ensure!(status.ready_replicas == status.replicas, "daemon: {:?} ready", status.ready_replicas);
    Ok(())
}
