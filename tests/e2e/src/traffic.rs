//! Traffic that runs while something breaks, with pairs that must not talk, and what became of each at any time.

mod baseline;
mod client;
mod flow;

use baseline::Baseline;
pub use flow::{Bounds, Class, Flow, Harm, UNHARMED, Window};

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use serde_json::json;
use tombolo_api::MeshNetworkPolicy;

use crate::{
    GLOBAL, Scope,
    machine::{self, Background, machines},
};
use client::{Client, container};

/// Long TCP connections, UDP exchanges and requests in connections of their own, each between pods of one node, of two
/// nodes, of two nodes through a ClusterIP, to the outside, and from and to another cluster through a global service.
/// Beside each there is a pair that a policy keeps apart.
pub struct Traffic<'a> {
    clients: Vec<Client<'a>>,
    /// How often the containers of each had been started again before anything broke.
    restarts: Vec<Vec<i32>>,
    baseline: Baseline,
    _outside: Vec<Background>,
    /// The addresses of the service in front of the server here.
    pub service: Vec<IpAddr>,
    /// The addresses here of the service whose server is in the other cluster.
    pub remote: Vec<IpAddr>,
}

/// Where servers answer by TCP and UDP with what they are sent, and where by HTTP.
const ECHO: u16 = 7;
const HTTP: u16 = 8080;
const PORTS: [(&str, &str, u16); 3] = [("tcp", "TCP", ECHO), ("udp", "UDP", ECHO), ("http", "TCP", HTTP)];
/// Where clients may be.
const CLUSTERS: [&str; 2] = ["east", "west"];
/// A host that has neither pods nor tombolo.
const OUTSIDE: &str = "outside-1";
/// Clients run for so long before anything may break.
const WARM_UP: Duration = Duration::from_secs(2);
/// A flow of fewer exchanges proves nothing.
const ENOUGH: u64 = 20;

impl<'a> Traffic<'a> {
    /// Starts servers and clients in `here` and in the namespace of the same name in another cluster, and lets them
    /// get going.
    pub async fn start(here: &'a Scope, away: &'a Scope) -> anyhow::Result<Self> {
        let (nodes, there) = (here.cluster.nodes().await?, away.cluster.nodes().await?);
        let ([near, far, ..], [there, ..]) = (nodes.as_slice(), there.as_slice()) else {
            anyhow::bail!("traffic needs two nodes here and one there: {nodes:?}, {there:?}");
        };
        tokio::try_join!(serve(here, "server", near), serve(away, "remote", there))?;
        let address = here.pod_ips("server").await?;
        let service = here.service("server", &PORTS, &[GLOBAL]).await?;
        let incoming = away.service("server", &PORTS, &[GLOBAL]).await?;
        away.service("remote", &PORTS, &[GLOBAL]).await?;
        let remote = here.service("remote", &PORTS, &[GLOBAL]).await?;
        let (outside, running) = serve_outside(here)?;
        // Families take turns: both for each would be more than the machine can carry.
        let first = |addresses: &[IpAddr]| addresses.first().copied().context("no address");
        let last = |addresses: &[IpAddr]| addresses.last().copied().context("no address");
        let mut clients = vec![
            Client::new(here, "near", Class::Local, near, first(&address)?),
            Client::new(here, "far", Class::Local, far, last(&address)?),
            Client::new(here, "service", Class::Local, far, first(&service)?),
            Client::new(here, "out", Class::Between, far, last(&remote)?),
            Client::new(away, "in", Class::Between, there, first(&incoming)?),
            Client::new(here, "outside", Class::Outside, far, last(&outside)?),
        ];
        let denied: Vec<_> = clients.iter().map(Client::denied).collect();
        clients.extend(denied);
        let admitted: Vec<_> =
            clients.iter().filter(|c| c.class != Class::Denied).map(|c| c.name.as_str()).collect();
        tokio::try_join!(keep_apart(here, &admitted), keep_apart(away, &admitted))?;
        try_join_all(clients.iter().map(Client::start)).await?;
        let program = machine::testpod(&machines(&here.cluster.name)?, "server")?;
        let baseline = Baseline::start(&program)?;
        tokio::time::sleep(WARM_UP).await;
        let restarts = try_join_all(clients.iter().map(Client::restarts)).await?;
        Ok(Self { clients, restarts, baseline, _outside: running, service, remote })
    }

    /// Ends the clients and reads what they saw. Fails if a pair talked that is kept apart, or a pair that is not
    /// did not talk at all.
    pub async fn finish(self) -> anyhow::Result<Recording> {
        let clients = self.clients.iter().zip(&self.restarts);
        let logs = try_join_all(clients.map(|(client, restarts)| client.finish(restarts))).await?;
        let flows: Vec<Flow> = logs.into_iter().flatten().collect();
        for flow in &flows {
            ensure!(flow.sent > ENOUGH, "{} hardly ran: {flow:?}", flow.name);
            ensure!(
                flow.class != Class::Denied || flow.answered == 0,
                "a pair talked that is kept apart: {flow:?}"
            );
            ensure!(
                flow.class == Class::Denied || flow.answered > ENOUGH,
                "{} hardly got through: {flow:?}",
                flow.name
            );
        }
        Ok(Recording { flows, shared: self.baseline.finish()? })
    }
}

/// What all clients saw, and the pauses that the machine itself made.
#[derive(Debug)]
pub struct Recording {
    /// By client and kind.
    pub flows: Vec<Flow>,
    /// Pauses of two bare namespaces beside them.
    pub shared: Vec<Window>,
}

impl Recording {
    /// Everything in which a class of flows was harmed more than it may be while `window` lasted, a line each.
    pub fn violations(&self, class: Class, window: Window, bounds: Bounds) -> Vec<String> {
        let of_class = self.flows.iter().filter(|flow| flow.class == class);
        let harms = of_class.map(|flow| (flow, flow.harm(window, &self.shared)));
        harms
            .filter(|(_, harm)| !bounds.allow(harm))
            .map(|(flow, harm)| format!("{}: {harm}, allowed {bounds}; {:?}", flow.name, flow.words(window)))
            .collect()
    }

    /// Fails if a flow that may talk took more harm than [`UNHARMED`] allows while `window` lasted.
    pub fn unharmed(&self, window: Window) -> anyhow::Result<()> {
        let classes = [Class::Local, Class::Outside, Class::Between];
        let found: Vec<_> = classes.iter().flat_map(|c| self.violations(*c, window, UNHARMED)).collect();
        ensure!(found.is_empty(), "traffic was harmed:\n{}", found.join("\n"));
        Ok(())
    }

    /// The worst of a class while `window` lasted.
    pub fn worst(&self, class: Class, window: Window) -> Harm {
        let of_class = self.flows.iter().filter(|flow| flow.class == class);
        of_class.map(|flow| flow.harm(window, &self.shared)).fold(Harm::default(), Harm::worse)
    }
}

/// A pod that answers on all of [`PORTS`].
async fn serve(scope: &Scope, name: &str, node: &str) -> anyhow::Result<Pod> {
    let servers = [
        container("tcp", &["tcp-echo", "--port", "7"]),
        container("udp", &["udp-echo", "--port", "7"]),
        container("http", &["http", "--port", "8080"]),
    ];
    scope.pod_with(name, &[], json!({"nodeName": node, "containers": servers})).await
}

/// Servers that are no pods; an address of theirs of each family.
fn serve_outside(scope: &Scope) -> anyhow::Result<(Vec<IpAddr>, Vec<Background>)> {
    let machines = machines(&scope.cluster.name)?;
    let (program, host) = (machine::testpod(&machines, "server")?, machine::outside(OUTSIDE)?);
    let addresses: Vec<IpAddr> =
        machines.plans().filter_map(|plan| host.addresses(plan.family()).first().copied()).collect();
    // Of several addresses of a host, a datagram's answer has to come from the one that was asked.
    let listen = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let (echo, http) = (ECHO.to_string(), HTTP.to_string());
    let servers: [&[&str]; 3] = [
        &[&program, "tcp-echo", "--port", &echo],
        &[&program, "udp-echo", "--port", &echo, "--address", &listen],
        &[&program, "http", "--port", &http],
    ];
    let running: Result<Vec<_>, _> = servers.iter().map(|argv| Background::start(&host, argv)).collect();
    Ok((addresses, running?))
}

/// Lets only these clients into the servers, from any cluster, and the one that is denied the outside not out.
async fn keep_apart(scope: &Scope, admitted: &[&str]) -> anyhow::Result<()> {
    let pods =
        |names: &[&str]| json!({"matchExpressions": [{"key": "app", "operator": "In", "values": names}]});
    let from = json!([{"podSelector": pods(admitted), "clusters": CLUSTERS}]);
    let spec = json!({
        "podSelector": pods(&["server", "remote"]), "policyTypes": ["Ingress"], "ingress": [{"from": from}],
    });
    let policy = MeshNetworkPolicy::new("into-servers", serde_json::from_value(spec)?);
    scope.api().create(&PostParams::default(), &policy).await?;
    let spec = json!({"podSelector": pods(&["outside-denied"]), "policyTypes": ["Egress"], "egress": []});
    scope.network_policy("not-outside", spec).await
}
