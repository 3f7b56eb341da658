//! The node agent.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tombolo_node::{
    agent, cleanup,
    config::{Config, Layer, LogFormat},
    install::Installer,
};
use tracing_subscriber::EnvFilter;

/// The agent of a node: connects its pods, and keeps its datapath as the cluster wants it.
#[derive(Parser)]
#[command(name = "tombolo-node", version)]
struct Args {
    /// The configuration file [default: /etc/tombolo/config.yaml, if it exists]
    #[arg(long, global = true, env = "TOMBOLO_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    layer: Layer,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the agent (the default)
    Run,
    /// Take everything of tombolo off this node: devices, routes, BPF programs and maps, configuration, state
    Cleanup,
}

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logging may not have begun. Nothing can be done about a closed stderr.
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("tombolo-node: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = Config::load(args.config.as_deref(), args.layer)?;
    let filter = EnvFilter::try_new(&config.log_level).context("logLevel is not a log filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(run(config, args.command.unwrap_or(Command::Run)))
}

async fn run(config: Config, command: Command) -> anyhow::Result<()> {
    let installer = Installer {
        binary: config.cni_binary.clone(),
        bin_dir: config.cni_bin_dir.clone(),
        conf_dir: config.cni_conf_dir.clone(),
        socket: config.cni_socket.clone(),
        del_queue: config.state_dir.join("cni-del"),
    };
    match command {
        Command::Cleanup => {
            let failures = cleanup::run(&config, &installer).await;
            anyhow::ensure!(failures.is_empty(), "not everything was removed: {}", failures.join("; "));
            Ok(())
        }
        Command::Run => {
            tracing::info!(config = %serde_json::to_string(&config)?, "configuration in effect");
            let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let stop = async move {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
            };
            agent::run(config, installer, stop).await
        }
    }
}
