//! `tombolo install`: checks first, then one `helm upgrade --install`, then waits for what runs.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};
use k8s_openapi::{
    api::{apps::v1::DaemonSet, discovery::v1::EndpointSlice},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use tombolo_model::{ClusterId, ClusterName};

use crate::{
    cluster::ClusterArgs,
    helm::{self, Chart, RELEASE},
    output::progress,
};

/// What `tombolo install` takes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    tombolo install --cluster-name east --cluster-id 1\n  \
    tombolo install --cluster-name east --cluster-id 1 --set log.level=debug --values my-values.yaml\n  \
    tombolo install --cluster-name east --cluster-id 1 --dry-run")]
pub struct Args {
    /// The cluster's name in the mesh, unique there [default: that of the installed release]
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// The cluster's number in the mesh, 1 to 4095, unique there [default: made from the name]
    #[arg(long, value_name = "ID")]
    cluster_id: Option<u16>,
    /// Where nodes reach the API server, as host:port [default: what the `kubernetes` service points to]
    #[arg(long, value_name = "HOST:PORT")]
    api_server: Option<String>,
    /// Set a value of the chart (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Read values of the chart from a file (may be repeated)
    #[arg(long, value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Print the manifests and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Return without waiting for the nodes to be ready
    #[arg(long)]
    no_wait: bool,
    /// How long to wait for the nodes to be ready, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

/// Installs or upgrades.
pub async fn run(cluster: &ClusterArgs, args: &Args) -> anyhow::Result<()> {
    helm::available().await?;
    let (name, id) = identity(args)?;
    let client = cluster.client().await?;
    refuse_other_identity(&client, &cluster.namespace, &name, id).await?;
    let api_server = match &args.api_server {
        Some(text) => parse_host_port(text)?,
        None => discover_api_server(&client).await?,
    };

    let chart = Chart::unpack()?;
    let mut helm_args: Vec<String> = if args.dry_run {
        vec!["template".into(), RELEASE.into(), chart.path().display().to_string(), "--include-crds".into()]
    } else {
        [
            "upgrade",
            RELEASE,
            &chart.path().display().to_string(),
            "--install",
            "--create-namespace",
            "--skip-crds",
        ]
        .map(String::from)
        .to_vec()
    };
    helm_args.extend(cluster.helm_flags());
    for file in &args.values {
        helm_args.extend(["--values".into(), file.display().to_string()]);
    }
    for value in [
        format!("cluster.name={name}"),
        format!("cluster.id={id}"),
        format!("apiServer.host={}", api_server.0),
        format!("apiServer.port={}", api_server.1),
    ] {
        helm_args.extend(["--set".into(), value]);
    }
    for value in &args.set {
        helm_args.extend(["--set".into(), value.clone()]);
    }
    if args.dry_run {
        return Ok(crate::output::line(&helm::run(&helm_args).await?)?);
    }

    progress(&format!("installing tombolo as cluster {name} (id {id})"));
    apply_crds(&client).await?;
    helm::run(&helm_args).await?;
    if args.no_wait { Ok(()) } else { wait_ready(&client, &cluster.namespace, args.timeout).await }
}

fn identity(args: &Args) -> anyhow::Result<(ClusterName, ClusterId)> {
    let Some(name) = &args.cluster_name else {
        bail!("--cluster-name is missing: give the cluster a name that is unique in the mesh");
    };
    let name: ClusterName = name.parse()?;
    let id = args.cluster_id.unwrap_or_else(|| id_of(&name));
    Ok((name, ClusterId::try_from(id)?))
}

/// FNV-1a over the name: the same number wherever it is computed. Two names may share one, which `connect` refuses.
fn id_of(name: &ClusterName) -> u16 {
    let hash = name
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u16::try_from(hash % u32::from(ClusterId::MAX)).unwrap_or(0) + 1
}

/// Identities carry the id, and the mesh knows the name: neither can change under running pods.
async fn refuse_other_identity(
    client: &Client,
    namespace: &str,
    name: &ClusterName,
    id: ClusterId,
) -> anyhow::Result<()> {
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(client.clone(), namespace);
    let Some(map) = maps.get_opt("tombolo-config").await.context("cannot ask the API server")? else {
        return Ok(());
    };
    let text = map.data.unwrap_or_default().remove("node.yaml").unwrap_or_default();
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Installed {
        cluster_name: String,
        cluster_id: u16,
    }
    let installed: Installed =
        serde_yaml_ng::from_str(&text).context("the ConfigMap tombolo-config is not readable")?;
    if installed.cluster_name != name.as_str() || installed.cluster_id != id.get() {
        bail!(
            "this cluster is installed as {} (id {}), not as {name} (id {id}): give these values, or run \
             `tombolo uninstall` first; nothing was changed",
            installed.cluster_name,
            installed.cluster_id
        );
    }
    Ok(())
}

fn parse_host_port(text: &str) -> anyhow::Result<(String, u16)> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match parsed {
        Some((host, port)) if !host.is_empty() => Ok((host.trim_matches(['[', ']']).to_owned(), port)),
        _ => bail!("--api-server {text:?} is not host:port, like 10.0.0.10:6443"),
    }
}

/// Without kube-proxy the ClusterIP of `kubernetes` leads nowhere until the agents run, so they are told the
/// address behind it.
async fn discover_api_server(client: &Client) -> anyhow::Result<(String, u16)> {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let slice =
        slices.get_opt("kubernetes").await.context("cannot reach the API server")?.context(
            "the EndpointSlice default/kubernetes is missing: name the API server by --api-server",
        )?;
    let address = slice.endpoints.iter().flatten().flat_map(|e| &e.addresses).next();
    let port = slice.ports.iter().flatten().find_map(|p| p.port);
    match (address, port.and_then(|p| u16::try_from(p).ok())) {
        (Some(address), Some(port)) => Ok((address.clone(), port)),
        _ => bail!(
            "the EndpointSlice default/kubernetes names no address: name the API server by --api-server"
        ),
    }
}

/// Helm installs custom resource definitions once and never changes them; an upgrade must.
async fn apply_crds(client: &Client) -> anyhow::Result<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for manifest in Chart::crds() {
        let crd: CustomResourceDefinition =
            serde_yaml_ng::from_slice(manifest).context("a carried CRD is broken")?;
        let name = crd.metadata.name.clone().unwrap_or_default();
        api.patch(&name, &PatchParams::apply("tombolo").force(), &Patch::Apply(&crd))
            .await
            .with_context(|| format!("cannot apply the resource definition {name}"))?;
    }
    Ok(())
}

async fn wait_ready(client: &Client, namespace: &str, timeout: u64) -> anyhow::Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
    let mut said = String::new();
    let ready = async {
        loop {
            let set = sets.get("tombolo-node").await.context("cannot read the DaemonSet tombolo-node")?;
            let generation = set.metadata.generation;
            let status = set.status.unwrap_or_default();
            let (want, up) = (status.desired_number_scheduled, status.number_ready);
            let now = format!("nodes ready: {up} of {want}");
            if now != said {
                progress(&now);
                said = now;
            }
            let updated = status.updated_number_scheduled.unwrap_or(0);
            if status.observed_generation == generation && want > 0 && up >= want && updated >= want {
                return Ok::<_, anyhow::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(timeout), ready).await {
        Ok(result) => result,
        Err(_) => bail!(
            "not all nodes became ready within {timeout} s: `kubectl -n {namespace} get pods` and \
             `kubectl -n {namespace} logs ds/tombolo-node -c agent` show why"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_from_names_never_change() {
        // A cluster that is installed again, by whatever version, has to keep its id.
        for (name, id) in [("east", 1908), ("west", 2350), ("a", 2771), ("eu-central-1", 1635)] {
            assert_eq!(id_of(&name.parse().unwrap()), id, "{name}");
        }
        for n in 0..10_000 {
            let name: ClusterName = format!("c{n}").parse().unwrap();
            assert!(ClusterId::try_from(id_of(&name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn api_server_is_host_and_port() {
        assert_eq!(parse_host_port("10.0.0.1:6443").unwrap(), ("10.0.0.1".into(), 6443));
        assert_eq!(parse_host_port("[fd00::1]:6443").unwrap(), ("fd00::1".into(), 6443));
        for bad in ["10.0.0.1", ":6443", "a:b", "a:70000"] {
            assert!(parse_host_port(bad).unwrap_err().to_string().contains("host:port"), "{bad}");
        }
    }
}
