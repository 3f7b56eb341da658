//! `tombolo mesh`: who is in, who leads, who is cut off, what to do; and what only an operator may decide.

use std::time::{Duration, Instant};

use anyhow::bail;
use tombolo_model::{ClusterName, Departed, MemberStatus, MeshStatus};

use crate::{
    agents::ask_daemon,
    cluster::ClusterArgs,
    output::{self, Format, progress},
};

/// What `tombolo mesh` takes.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show the members of the mesh as this cluster sees them, what is wrong, and what to do
    ///
    /// ROLE: who leads the decisions of the mesh, votes on them, or follows. SESSION: whether this cluster hears the
    /// member, or since when not. SYNCED: whether all of its records have arrived. BEHIND: its changes that have not
    /// arrived here, and decisions that it has not applied. CUT OFF FROM: the members that do not hear it. PODS: how many
    /// of its pods are known here. Below: the last clusters that left, and who took them out. Other clusters may see all of
    /// this otherwise: ask them with --context.
    #[command(after_help = "Example:\n  tombolo mesh status --context east")]
    Status {
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Show the members as the membership knows them: votes, certificate pins, addresses
    #[command(after_help = "Example:\n  tombolo mesh members --context east")]
    Members {
        /// Form of the output
        #[arg(long, short, value_enum, default_value_t)]
        output: Format,
    },
    /// Hand leadership of the membership from the cluster of --context to another one
    ///
    /// Nothing is interrupted: joins and leaves wait for a moment. Before maintenance it spares an election.
    #[command(after_help = "Example:\n  tombolo mesh transfer west --context east")]
    Transfer {
        /// The cluster that shall lead, by its name in the mesh
        cluster: String,
    },
    /// Let the cluster of --context decide alone after all others were lost for good
    ///
    /// Without a majority of the voters the mesh admits and removes nobody; traffic goes on. If the others will never
    /// come back, this cluster can go on without them. Those that do come back have to `tombolo disconnect` and join
    /// again.
    #[command(after_help = "Example:\n  tombolo mesh recover --context east --yes")]
    Recover {
        /// Confirm that the others are gone for good
        #[arg(long)]
        yes: bool,
    },
    /// Replace the certificate authority of the cluster of --context by a new one
    ///
    /// The new authority is made known to all clusters and nodes first, then signs, then the old one goes: no session
    /// ends. Whoever is unreachable is waited for; it goes on by itself, also when this command does not wait.
    #[command(after_help = "Examples:\n  tombolo mesh rotate-ca --context east\n  \
        tombolo mesh rotate-ca --context east --timeout 0")]
    RotateCa {
        /// How long to wait for the end, in seconds
        #[arg(long, default_value_t = 600, value_name = "SECONDS")]
        timeout: u64,
    },
}

/// Clusters that have left, in the table.
const DEPARTURES: usize = 5;

/// Runs one of them.
pub async fn run(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let text = match command {
        Command::Status { output: Format::Table } => text(&status(cluster).await?),
        Command::Status { output } => output.render(&status(cluster).await?)?,
        Command::Members { output: Format::Table } => members(&status(cluster).await?),
        Command::Members { output } => output.render(&status(cluster).await?.members)?,
        Command::Transfer { cluster: to } => ask(cluster, &["transfer", to]).await?,
        Command::Recover { yes: true } => ask(cluster, &["recover", "--yes"]).await?,
        Command::RotateCa { timeout } => rotate(cluster, Duration::from_secs(*timeout)).await?,
        Command::Recover { yes: false } => bail!(
            "this cluster would go on alone, and every other member would have to leave and join again: look at \
             `tombolo mesh status`, and repeat with --yes if they are gone for good"
        ),
    };
    Ok(output::line(&text)?)
}

/// The mesh as the cluster's leading daemon sees it.
pub async fn status(cluster: &ClusterArgs) -> anyhow::Result<MeshStatus> {
    Ok(serde_json::from_str(&ask(cluster, &["status"]).await?)?)
}

/// Starts a change of the authority and tells how it goes.
async fn rotate(cluster: &ClusterArgs, patience: Duration) -> anyhow::Result<String> {
    let (begun, start) = (ask(cluster, &["rotate-ca"]).await?, Instant::now());
    if patience.is_zero() {
        return Ok(begun);
    }
    progress(&begun);
    let mut last = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // The first look comes before the daemon's.
        let now = status(cluster).await?;
        if now.rotation.is_none() && last.is_some() {
            let own = now.members.iter().find(|m| m.id == now.id);
            let pins = own.map(|m| m.ca_pins.join(",")).unwrap_or_default();
            return Ok(format!("the certificate authority of cluster {} is {pins}", now.cluster));
        }
        if let Some(waits) = now.rotation.filter(|waits| last.as_ref() != Some(waits)) {
            progress(&waits);
            last = Some(waits);
        }
        if start.elapsed() > patience {
            bail!(
                "the change is not complete after {} s: it goes on by itself, and `tombolo mesh status` says what it \
                 waits for",
                patience.as_secs()
            );
        }
    }
}

async fn ask(cluster: &ClusterArgs, command: &[&str]) -> anyhow::Result<String> {
    let client = cluster.client().await?;
    Ok(ask_daemon(&client, &cluster.namespace, command).await?.trim().to_owned())
}

fn text(mesh: &MeshStatus) -> String {
    let leader = mesh.leader.as_ref().map_or("none (no quorum)", |l| l.as_str());
    let header =
        format!("mesh {}, seen from {}: leader {leader}, term {}", mesh.mesh, mesh.cluster, mesh.term);
    let members = output::table(
        [
            "CLUSTER",
            "ID",
            "STATE",
            "ROLE",
            "SESSION",
            "SYNCED",
            "BEHIND",
            "CUT OFF FROM",
            "PODS",
            "RANGES",
            "VERSION",
        ],
        mesh.members.iter().map(|m| row(mesh, m)),
    );
    let departures = mesh.departures.iter().take(DEPARTURES).map(departure).collect::<String>();
    let rotation = mesh.rotation.iter().map(|r| format!("\nrotation: {r}")).collect::<String>();
    let problems = mesh.problems.iter().map(|p| format!("\nproblem: {p}")).collect::<String>();
    let refused = mesh.refused_connections.iter();
    let refused = refused.map(|r| format!("\nrefused: {} connections, the last from {}", r.count, r.last));
    let refused = refused.collect::<String>();
    format!("{header}\n{members}{departures}{rotation}{refused}{problems}")
}

fn departure(gone: &Departed) -> String {
    let how = if gone.by == gone.name { "left".to_owned() } else { format!("was taken out by {}", gone.by) };
    format!("\ngone: cluster {} {how} at {}", gone.name, gone.at)
}

fn row(mesh: &MeshStatus, member: &MemberStatus) -> [String; 11] {
    let own = member.id == mesh.id;
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    let session = match (own, member.connected, member.heard_ms) {
        (true, ..) => "self".to_owned(),
        (_, true, _) => "up".to_owned(),
        (_, false, Some(ms)) => format!("down {}s", ms / 1000),
        (_, false, None) => "never".to_owned(),
    };
    let ranges: Vec<_> = member.pod_prefixes.iter().map(ToString::to_string).collect();
    let names: Vec<_> = member.cut_off_from.iter().map(ClusterName::as_str).collect();
    let version = member.software.as_deref().and_then(|software| software.split(' ').next_back());
    [
        member.name.to_string(),
        member.id.to_string(),
        member.state.clone(),
        role(mesh, member).to_owned(),
        session,
        if own { "-".to_owned() } else { yes(member.synced) },
        behind(member),
        if member.cut_off_from.is_empty() { "-".to_owned() } else { names.join(",") },
        member.counts.get("endpoints").copied().unwrap_or(0).to_string(),
        ranges.join(","),
        version.unwrap_or("-").to_owned(),
    ]
}

/// Its part in the decisions of the mesh.
fn role(mesh: &MeshStatus, member: &MemberStatus) -> &'static str {
    match &mesh.leader {
        Some(leader) if *leader == member.name => "leader",
        _ if member.voter => "voter",
        _ => "learner",
    }
}

/// What has not arrived: its records here, and the decisions of the mesh there.
fn behind(member: &MemberStatus) -> String {
    let count = |n: Option<u64>, what| n.filter(|n| *n > 0).map(|n| format!("{n} {what}"));
    let parts: Vec<_> = [count(member.behind, "changes"), count(member.membership_behind, "decisions")]
        .into_iter()
        .flatten()
        .collect();
    match (parts.is_empty(), member.connected) {
        (false, _) => parts.join(", "),
        (true, true) => "0".to_owned(),
        (true, false) => "-".to_owned(),
    }
}

fn members(mesh: &MeshStatus) -> String {
    let row = |m: &MemberStatus| {
        [
            m.name.to_string(),
            m.id.to_string(),
            m.state.clone(),
            role(mesh, m).to_owned(),
            m.incarnation.to_string(),
            m.ca_pins.join(","),
            m.endpoints.join(","),
        ]
    };
    output::table(
        ["CLUSTER", "ID", "STATE", "ROLE", "INCARNATION", "CA", "ADDRESS"],
        mesh.members.iter().map(row),
    )
}
