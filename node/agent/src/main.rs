//! The node agent.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tombolo_node::{
    agent, cleanup,
    config::{Config, Layer, LogFormat},
    install::Installer,
    query, requirements,
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
    /// Print what the running agent says to a GET of PATH, like /v1/status, /v1/endpoints or /v1/bpf/service
    Query {
        /// The path
        path: String,
        /// The agent's socket
        #[arg(long, default_value = "/run/tombolo/agent.sock")]
        socket: PathBuf,
    },
    /// Wait for a signal: keeps a pod running whose work is done
    Pause,
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
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    match &args.command {
        Some(Command::Query { path, socket }) => {
            let answer = runtime.block_on(query::get(socket, path))?;
            return Ok(std::io::Write::write_all(&mut std::io::stdout(), answer.as_bytes())?);
        }
        Some(Command::Pause) => {
            return runtime.block_on(async {
                stop()?.await;
                Ok(())
            });
        }
        Some(Command::Run | Command::Cleanup) | None => {}
    }
    let config = Config::load(args.config.as_deref(), args.layer)?;
    let filter = EnvFilter::try_new(&config.log_level).context("logLevel is not a log filter")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    runtime.block_on(run(config, matches!(args.command, Some(Command::Cleanup))))
}

async fn run(config: Config, clean_up: bool) -> anyhow::Result<()> {
    let installer = Installer {
        binary: config.cni_binary.clone(),
        bin_dir: config.cni_bin_dir.clone(),
        conf_dir: config.cni_conf_dir.clone(),
        socket: config.cni_socket.clone(),
        del_queue: config.runtime_dir.join("cni-del"),
    };
    if clean_up {
        let failures = cleanup::run(&config, &installer).await;
        anyhow::ensure!(failures.is_empty(), "not everything was removed: {}", failures.join("; "));
        return Ok(());
    }
    requirements::check()?;
    tracing::info!(config = %serde_json::to_string(&config)?, "configuration in effect");
    agent::run(config, installer, stop()?).await
}

/// Comes to an end with SIGTERM or SIGINT.
fn stop() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
