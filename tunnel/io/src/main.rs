//! `tombolo-tunnel`: userspace WireGuard for nodes whose kernel has none.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tombolo_tunnel::engine::Engine;
use tombolo_tunnel::interface::InterfaceName;
use tombolo_tunnel::{sys, uapi};
use tracing_subscriber::EnvFilter;

/// Userspace WireGuard over a persistent TUN device, configured over the standard UAPI socket (wg works on it).
///
/// Runs in the foreground until SIGTERM or SIGINT. The TUN device, with its routes, stays behind, so that a
/// restart costs one handshake; --delete removes it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Name of the TUN device to make, or to attach to when it exists
    #[arg(long, default_value = "tombolo-wg0", env = "TOMBOLO_TUNNEL_INTERFACE")]
    interface: InterfaceName,
    /// MTU of the device: the underlay's less 80
    #[arg(long, default_value_t = 1420, value_parser = clap::value_parser!(u16).range(576..), env = "TOMBOLO_TUNNEL_MTU")]
    mtu: u16,
    /// Directory of the UAPI socket, <interface>.sock
    #[arg(long, default_value = "/var/run/wireguard", env = "TOMBOLO_TUNNEL_UAPI_DIR")]
    uapi_dir: PathBuf,
    /// What to log: error, warn, info, debug, or a filter per module. Never per packet
    #[arg(long, default_value = "info,boringtun=off", value_parser = log_filter, env = "TOMBOLO_TUNNEL_LOG")]
    log: String,
    /// Remove the device and exit
    #[arg(long)]
    delete: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt().with_env_filter(EnvFilter::new(&args.log)).with_writer(std::io::stderr).init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let tun = sys::Tun::attach(&args.interface)?;
    if args.delete {
        tun.set_persistent(false).context("cannot remove the device")?;
        return Ok(());
    }
    tun.set_persistent(true).context("cannot make the device persistent")?;
    sys::bring_up(&args.interface, args.mtu)
        .with_context(|| format!("cannot set MTU {} and bring {} up", args.mtu, args.interface))?;
    let signals = sys::termination_signals().context("cannot receive signals")?;
    let (server, requests) = uapi::Server::bind(&args.uapi_dir, &args.interface)?;
    tracing::info!(interface = %args.interface, mtu = args.mtu, socket = %server.path().display(), "ready");
    let result = Engine::new(tun, requests)?.run(&signals);
    drop(server);
    result.context("the packet loop ended")
}

/// Refuses what the subscriber would silently ignore.
fn log_filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(text).map(|_| text.to_owned())
}
