//! `tombolo mesh status`: who is in, who leads, who is cut off, what to do.

use tombolo_model::{MemberStatus, MeshStatus};

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
}

/// Runs one of them.
pub async fn run(cluster: &ClusterArgs, command: &Command) -> anyhow::Result<()> {
    let Command::Status { output: format } = command;
    let mesh = status(cluster).await?;
    let text = if *format == Format::Table { text(&mesh) } else { format.render(&mesh)? };
    Ok(output::line(&text)?)
}

/// The mesh as the cluster's leading daemon sees it.
pub async fn status(cluster: &ClusterArgs) -> anyhow::Result<MeshStatus> {
    let client = cluster.client().await?;
    let answer = ask_daemon(&client, &cluster.namespace, &["status"]).await?;
    Ok(serde_json::from_str(&answer)?)
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
