//! `tombolo mesh`: who is in, who leads, who is cut off, what to do; and what only an operator may decide.

use tombolo_model::{MemberStatus, MeshStatus};

use anyhow::bail;

use crate::{
    agents::ask_daemon,
    cluster::ClusterArgs,
    output::{self, Format},
};

/// What `tombolo mesh` takes.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show the members of the mesh as this cluster sees them
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
}

/// Runs one of them.
pub async fn run(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let text = match command {
        Command::Status { output: Format::Table } => text(&status(cluster).await?),
        Command::Status { output } => output.render(&status(cluster).await?)?,
        Command::Members { output: Format::Table } => members(&status(cluster).await?),
        Command::Members { output } => output.render(&status(cluster).await?.members)?,
        Command::Transfer { cluster: to } => ask(cluster, &["transfer", to]).await?,
        Command::Recover { yes: true } => ask(cluster, &["recover", "--yes"]).await?,
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

async fn ask(cluster: &ClusterArgs, command: &[&str]) -> anyhow::Result<String> {
    let client = cluster.client().await?;
    Ok(ask_daemon(&client, &cluster.namespace, command).await?.trim().to_owned())
}

fn text(mesh: &MeshStatus) -> String {
    let leader = mesh.leader.as_ref().map_or("none (no quorum)", |l| l.as_str());
    let header =
        format!("mesh {}, seen from {}: leader {leader}, term {}", mesh.mesh, mesh.cluster, mesh.term);
    let members = output::table(
        ["CLUSTER", "ID", "STATE", "VOTER", "SESSION", "SYNCED", "LAG", "PODS", "RANGES", "ADDRESS"],
        mesh.members.iter().map(|m| row(m, m.id == mesh.id)),
    );
    let problems = mesh.problems.iter().map(|p| format!("\nproblem: {p}")).collect::<String>();
    format!("{header}\n{members}{problems}")
}

fn row(member: &MemberStatus, own: bool) -> [String; 10] {
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    let session = match (own, member.connected, member.heard_ms) {
        (true, ..) => "self".to_owned(),
        (_, true, _) => "up".to_owned(),
        (_, false, Some(ms)) => format!("down {}s", ms / 1000),
        (_, false, None) => "never".to_owned(),
    };
    let ranges: Vec<_> = member.pod_prefixes.iter().map(ToString::to_string).collect();
    [
        member.name.to_string(),
        member.id.to_string(),
        member.state.clone(),
        yes(member.voter),
        session,
        if own { "-".to_owned() } else { yes(member.synced) },
        member.lag_ms.map_or("-".to_owned(), |ms| format!("{ms}ms")),
        member.counts.get("endpoints").copied().unwrap_or(0).to_string(),
        ranges.join(","),
        member.endpoints.join(","),
    ]
}

fn members(mesh: &MeshStatus) -> String {
    let role = |m: &MemberStatus| match mesh.leader.as_ref() {
        Some(leader) if *leader == m.name => "leader",
        _ if m.voter => "voter",
        _ => "learner",
    };
    let row = |m: &MemberStatus| {
        [
            m.name.to_string(),
            m.id.to_string(),
            m.state.clone(),
            role(m).to_owned(),
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
