//! The mesh daemon of one cluster.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tombolo_clustermesh::{
    config::{Config, Flags, LogConfig, LogFormat},
    control::{self, Request, Response},
    run::run,
    status::Shared,
};
use tombolo_model::ClusterName;
use tracing::info;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "tombolo-clustermesh", version, about = "The mesh daemon of one cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a replica of the daemon.
    Run {
        /// The configuration file.
        #[arg(long, env = "TOMBOLO_CONFIG")]
        config: Option<PathBuf>,
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Print the mesh as this cluster sees it, as JSON.
    Status {
        #[command(flatten)]
        socket: Socket,
    },
    /// Print the state of the replica in this pod, as JSON.
    Replica {
        #[command(flatten)]
        socket: Socket,
    },
    /// Make, check, list and revoke tokens that let clusters in.
    Token {
        #[command(flatten)]
        socket: Socket,
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Take a cluster out of the mesh.
    Leave {
        #[command(flatten)]
        socket: Socket,
        /// The cluster, by its name [default: this one]
        #[arg(long)]
        cluster: Option<ClusterName>,
    },
    /// Hand leadership of the membership from this cluster to another one.
    Transfer {
        #[command(flatten)]
        socket: Socket,
        /// The cluster, by its name.
        cluster: ClusterName,
    },
    /// Go on alone after all other members were lost for good.
    Recover {
        #[command(flatten)]
        socket: Socket,
        /// Confirms that the others are gone: they would decide something else.
        #[arg(long, required = true)]
        yes: bool,
    },
    /// Replace the certificate authority of this cluster by a new one.
    RotateCa {
        #[command(flatten)]
        socket: Socket,
    },
}

#[derive(Args)]
struct Socket {
    /// The socket of the daemon in this pod.
    #[arg(long, env = "TOMBOLO_SOCKET", default_value = "/run/tombolo/clustermesh.sock", global = true)]
    socket: PathBuf,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a new token, which lets one cluster in once.
    Create {
        /// How long it can be used, like 30m, 24h or 7d.
        #[arg(long, default_value = "1h")]
        ttl: String,
    },
    /// Check a token without using it: its form, its time, and whether its mesh would let this cluster in.
    Check {
        /// The token.
        token: String,
    },
    /// Print the tokens that the mesh remembers.
    List,
    /// Call a token back.
    Revoke {
        /// Its id, as printed by `token list`.
        id: String,
    },
}

impl From<TokenCommand> for Request {
    fn from(command: TokenCommand) -> Self {
        match command {
            TokenCommand::Create { ttl } => Self::CreateToken { ttl },
            TokenCommand::Check { token } => Self::CheckToken { token },
            TokenCommand::List => Self::ListTokens,
            TokenCommand::Revoke { id } => Self::RevokeToken { id },
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match start(Cli::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to tell a closed stderr.
            let _ = writeln!(std::io::stderr(), "tombolo-clustermesh: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn start(command: Command) -> Result<()> {
    match command {
        Command::Run { config, flags } => daemon(config, &flags).await,
        Command::Status { socket } => print(&socket, &Request::Mesh).await,
        Command::Replica { socket } => print(&socket, &Request::Status).await,
        Command::Token { socket, command } => print(&socket, &command.into()).await,
        Command::Leave { socket, cluster } => print(&socket, &Request::Leave { cluster }).await,
        Command::Transfer { socket, cluster } => print(&socket, &Request::Transfer { cluster }).await,
        Command::Recover { socket, yes: _ } => print(&socket, &Request::Recover).await,
        Command::RotateCa { socket } => print(&socket, &Request::RotateAuthority).await,
    }
}

async fn daemon(file: Option<PathBuf>, flags: &Flags) -> Result<()> {
    let config = Config::load(file.as_deref(), flags)?;
    start_log(&config.log)?;
    info!(config = %serde_json::to_string(&config)?, "starting");
    let client = Client::try_default().await.context("cannot find the Kubernetes API server")?;
    let status = Shared::new(config.cluster_name.clone(), config.cluster_id, config.pod_name.clone());
    let shutdown = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn({
        let shutdown = shutdown.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            shutdown.cancel();
        }
    });
    run(client, config, status, shutdown).await
}

fn start_log(config: &LogConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.filter)
        .with_context(|| format!("configuration: log.filter is {:?}", config.filter))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

async fn print(Socket { socket }: &Socket, request: &Request) -> Result<()> {
    let response = control::ask(socket, request)
        .await
        .with_context(|| format!("no daemon answers on {}: is it running in this pod?", socket.display()))?;
    let mut out = std::io::stdout().lock();
    match response {
        Response::Status(status) => serde_json::to_writer_pretty(&mut out, &status)?,
        Response::Mesh(status) => serde_json::to_writer_pretty(&mut out, &status)?,
        Response::Text(text) => out.write_all(text.as_bytes())?,
        Response::Error(error) => bail!(error),
    }
    Ok(writeln!(out)?)
}
