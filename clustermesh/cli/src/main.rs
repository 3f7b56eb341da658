//! The command line of tombolo: parses arguments, runs one command, prints errors with their causes.

mod agents;
mod cluster;
mod connect;
mod delete;
mod exec;
mod helm;
mod install;
mod list;
mod mesh;
mod output;
mod status;
mod token;
mod uninstall;

use std::{io::Write, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::cluster::ClusterArgs;

/// Joins Kubernetes clusters into one mesh.
#[derive(Parser)]
#[command(
    name = "tombolo",
    version,
    propagate_version = true,
    after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage.\n\n\
                  Examples:\n  \
                  tombolo install --context east --cluster-name east --cluster-id 1\n  \
                  tombolo install --context west --cluster-name west --cluster-id 2\n  \
                  tombolo connect --context east --destination-context west\n  \
                  tombolo status --wait"
)]
struct Cli {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install tombolo into a cluster, or change its configuration
    Install(install::Args),
    /// Remove tombolo from a cluster, with everything that it put on the nodes
    Uninstall(uninstall::Args),
    /// Join other clusters to the mesh of this one, or this one to another's
    Connect(connect::Args),
    /// Take a cluster out of the mesh
    Disconnect(connect::DisconnectArgs),
    /// Show whether every part works
    Status(status::Args),
    /// Show the mesh
    #[command(subcommand)]
    Mesh(mesh::Command),
    /// Make tokens that admit clusters
    #[command(subcommand)]
    Token(token::Command),
    /// Show the pods that tombolo connects
    #[command(subcommand)]
    Endpoint(list::Command),
    /// Show security identities and their labels
    #[command(subcommand)]
    Identity(list::Command),
    /// Show services as the nodes balance them
    #[command(subcommand)]
    Service(list::Command),
    /// Show what stands in a BPF map
    Bpf(list::BpfArgs),
    /// Print the completion script of a shell
    #[command(after_help = "Example:\n  source <(tombolo completion bash)")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Print the version
    Version,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to tell a closed stderr.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Install(args) => install::run(&cli.cluster, &args).await?,
        Command::Uninstall(args) => uninstall::run(&cli.cluster, &args).await?,
        Command::Connect(args) => connect::run(&cli.cluster, &args).await?,
        Command::Disconnect(args) => connect::disconnect(&cli.cluster, &args).await?,
        Command::Status(args) => status::run(&cli.cluster, &args).await?,
        Command::Mesh(command) => mesh::run(&cli.cluster, &command).await?,
        Command::Token(command) => token::run(&cli.cluster, &command).await?,
        Command::Endpoint(command) => list::endpoints(&cli.cluster, &command).await?,
        Command::Identity(command) => list::identities(&cli.cluster, &command).await?,
        Command::Service(command) => list::services(&cli.cluster, &command).await?,
        Command::Bpf(args) => list::bpf(&cli.cluster, &args).await?,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tombolo", &mut std::io::stdout());
        }
        Command::Version => output::line(&format!("tombolo {}", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(ExitCode::SUCCESS)
}
