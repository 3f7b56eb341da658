//! The mesh daemon of one cluster.

use std::{io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tombolo_clustermesh::{
    config::{Config, Flags, LogConfig, LogFormat},
    control::{self, Request, Response},
    run::run,
    status::Shared,
};
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
    /// Print the status of the replica in this pod, as JSON.
    Status {
        /// Its socket.
        #[arg(long, env = "TOMBOLO_SOCKET", default_value = "/run/tombolo/clustermesh.sock")]
        socket: PathBuf,
    },
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
        Command::Status { socket } => print(&socket, &Request::Status).await,
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

async fn print(socket: &std::path::Path, request: &Request) -> Result<()> {
    let response = control::ask(socket, request)
        .await
        .with_context(|| format!("no daemon answers on {}: is it running in this pod?", socket.display()))?;
    match response {
        Response::Status(status) => {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, &status)?;
            writeln!(out)?;
            Ok(())
        }
        Response::Error(error) => bail!(error),
    }
}
