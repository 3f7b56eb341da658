//! The command line: what each verb does.

mod arguments;

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tombolo_playground::api_forwarder;
use tombolo_playground::binaries::{Binaries, Extras};
use tombolo_playground::cgroup::Cgroup;
use tombolo_playground::device;
use tombolo_playground::forwarder::{self, Impairment};
use tombolo_playground::image::Builder;
use tombolo_playground::layout::Layout;
use tombolo_playground::place::Place;
use tombolo_playground::progress::Progress;
use tombolo_playground::{
    Cluster, LinkState, Playground, Snapshot, Spec, down, leftovers, namespace, teardown,
};

pub use arguments::Arguments;
use arguments::{Component, DeviceVerb, Image, Internal, Link, NodeVerb, Up, Verb};

/// The exit code after Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;
/// How long the kernel may take to let go of what ended.
const SETTLE: Duration = Duration::from_secs(60);

/// Does what the arguments say.
pub fn run(arguments: Arguments) -> Result<()> {
    let layout = Layout::from_environment();
    let progress = Progress::start();
    match arguments.verb {
        Verb::Internal(internal) => run_internal(internal),
        Verb::Up(up) => run_up(&up, &layout, progress),
        Verb::Down => run_down(&layout, progress),
        Verb::Status => status(&Playground::attach(&layout)?),
        Verb::Snapshot { since } => snapshot(since.as_deref()),
        Verb::Build { helm, kube_proxy } => {
            let binaries = Binaries::provide(Extras { helm, kube_proxy }, progress)?;
            binaries.all().try_for_each(|(name, path)| say(&format!("{name} {}", path.display())))
        }
        Verb::LoadImage { archive, cluster } => {
            let playground = Playground::attach(&layout)?;
            let clusters = match cluster {
                Some(name) => vec![playground.cluster(&name)?],
                None => playground.clusters(),
            };
            for cluster in clusters {
                progress.say(&format!("loading into {}", cluster.name()));
                cluster.load_image(&archive)?;
            }
            Ok(())
        }
        Verb::Exec { node, command } => {
            let mut inside = if node == "underlay" {
                Playground::attach(&layout)?;
                Place::underlay(&layout)?.command("exec", &command)?
            } else if !node.contains('/') && node.starts_with("outside") {
                Playground::attach(&layout)?.outside(&node)?.command(&command)?
            } else {
                let (cluster, node) = resolve(&layout, &node)?;
                cluster.command(&node, &command)?
            };
            Err(inside.exec()).context("cannot enter the node")
        }
        Verb::Node(verb) => run_node(&layout, &verb, progress),
        Verb::Device(verb) => run_device(&layout, &verb),
        Verb::Link(link) => run_link(&Playground::attach(&layout)?, &link),
        Verb::Kill(c) => component(&layout, &c, Cluster::kill),
        Verb::Freeze(c) => component(&layout, &c, Cluster::freeze),
        Verb::Thaw(c) => component(&layout, &c, Cluster::thaw),
        Verb::Restart(c) => component(&layout, &c, Cluster::restart),
        Verb::Image(image) => write_image(&image),
    }
}

fn run_up(up: &Up, layout: &Layout, progress: Progress) -> Result<()> {
    let spec = Spec::new(up.clusters, up.nodes, up.cni, &up.names)?;
    let (zones, control_planes) = (up.zones, up.control_planes);
    let spec = Spec { ip_family: up.ip_family, kube_proxy: up.kube_proxy, zones, control_planes, ..spec };
    watch_signals(progress)?;
    let result = Playground::up(spec, layout, progress);
    if teardown::is_interrupted() {
        teardown::end(layout, progress).context("cannot clean up; `playground down` tries again")?;
        std::process::exit(INTERRUPTED);
    }
    let playground = result?;
    progress.say("up");
    for cluster in playground.clusters() {
        say(&cluster.kubeconfig().display().to_string())?;
    }
    Ok(())
}

/// On Ctrl-C or SIGTERM, makes `up` fail soon and clean up.
fn watch_signals(progress: Progress) -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot watch signals")?;
    thread::spawn(move || {
        let signal = runtime.block_on(async {
            let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                result = tokio::signal::ctrl_c() => result,
                _ = terminate.recv() => Ok(()),
            }
        });
        if signal.is_ok() {
            progress.say("interrupted; removing what has been started");
            teardown::interrupt();
        }
    });
    Ok(())
}

fn run_down(layout: &Layout, progress: Progress) -> Result<()> {
    down(layout, progress)?;
    let left = leftovers(layout);
    if left.is_empty() {
        progress.say("nothing is left");
        return Ok(());
    }
    bail!("still there:\n{}", left.join("\n"))
}

fn status(playground: &Playground) -> Result<()> {
    for cluster in playground.clusters() {
        say(&format!("{} {}", cluster.name(), cluster.kubeconfig().display()))?;
        for (place, component, runs) in cluster.components()? {
            say(&format!("  {place:<16} {component:<24} {}", if runs { "running" } else { "not running" }))?;
        }
    }
    let failures = playground.failures()?;
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

fn snapshot(since: Option<&Path>) -> Result<()> {
    let Some(file) = since else { return say(Snapshot::take()?.to_string().trim_end()) };
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the snapshot {}", file.display()))?;
    let before = Snapshot::parse(&text);
    let started = Instant::now();
    loop {
        let left = Snapshot::take()?.since(&before);
        if left.is_empty() {
            return say("nothing is left");
        }
        // The kernel lets go of namespaces and BPF objects a moment after their last user.
        if started.elapsed() > SETTLE {
            bail!("came since {} was written:\n{}", file.display(), left.join("\n"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

fn run_node(layout: &Layout, verb: &NodeVerb, progress: Progress) -> Result<()> {
    match verb {
        NodeVerb::Add { cluster } => {
            let name = Playground::attach(layout)?.cluster(cluster)?.add_node(progress)?;
            say(&format!("{cluster}/{name}"))
        }
        NodeVerb::Remove { node } => {
            let (cluster, node) = resolve(layout, node)?;
            Ok(cluster.remove_node(&node)?)
        }
        NodeVerb::Reboot { node } => {
            let (cluster, node) = resolve(layout, node)?;
            Ok(cluster.reboot_node(&node)?)
        }
    }
}

fn run_device(layout: &Layout, verb: &DeviceVerb) -> Result<()> {
    match verb {
        DeviceVerb::Add { node, device } => {
            let (cluster, node) = resolve(layout, node)?;
            let addresses = cluster.add_device(&node, *device)?;
            addresses.iter().try_for_each(|address| say(&format!("{} {address}", device.link())))
        }
        DeviceVerb::Remove { node, device } => {
            let (cluster, node) = resolve(layout, node)?;
            Ok(cluster.remove_device(&node, *device)?)
        }
    }
}

fn run_link(playground: &Playground, link: &Link) -> Result<()> {
    if !link.up && !link.down && link.loss.is_none() && link.delay.is_none() && link.mtu.is_none() {
        bail!("no state given; add --up, --down, --loss, --delay or --mtu");
    }
    let state = LinkState {
        down: link.down,
        loss_percent: link.loss.unwrap_or(0),
        delay_ms: link.delay.unwrap_or(0),
        mtu: link.mtu,
    };
    Ok(playground.set_link(&link.a, &link.b, state)?)
}

fn component(
    layout: &Layout,
    what: &Component,
    action: fn(&Cluster, &str, &str) -> tombolo_playground::Result<()>,
) -> Result<()> {
    let (cluster, node) = resolve(layout, &what.node)?;
    Ok(action(&cluster, &node, &what.component)?)
}

fn resolve(layout: &Layout, name: &str) -> Result<(Cluster, String)> {
    let (cluster, node) = name
        .split_once('/')
        .ok_or_else(|| anyhow!("node is {name:?}; give it as CLUSTER/NODE, for example east/node-1"))?;
    Ok((Playground::attach(layout)?.cluster(cluster)?, node.to_owned()))
}

fn write_image(image: &Image) -> Result<()> {
    let mut builder =
        Builder::new(&format!("{}:{}", image.name, image.tag))?.entrypoint(image.entrypoint.clone());
    for file in &image.file {
        let (source, path) = pair("file", file)?;
        let mode = std::os::unix::fs::MetadataExt::mode(
            &std::fs::metadata(source).with_context(|| format!("cannot read {source}"))?,
        );
        builder = builder.file(source, path, mode & 0o7777)?;
    }
    for link in &image.link {
        let (path, target) = pair("link", link)?;
        builder = builder.link(path, target)?;
    }
    for label in &image.label {
        let (key, value) = pair("label", label)?;
        builder = builder.label(key, value);
    }
    Ok(builder.write(&image.output)?)
}

fn pair<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    text.split_once('=').ok_or_else(|| anyhow!("{option} is {text:?}; give two values with = between them"))
}

fn run_internal(internal: Internal) -> Result<()> {
    match internal {
        Internal::Hold { cgroup, isolation } => {
            let isolation = serde_json::from_str(&isolation).context("cannot read the isolation")?;
            Ok(namespace::hold(&Cgroup::at(cgroup), &isolation)?)
        }
        Internal::Enter { holder, cgroup, command } => {
            let new_session = std::env::var_os("TOMBOLO_NEW_SESSION").is_some();
            Ok(namespace::enter(holder, &Cgroup::at(cgroup), new_session, &command)?)
        }
        Internal::Join { cgroup, command } => Ok(namespace::join(&Cgroup::at(cgroup), &command)?),
        Internal::Forward { device, loss_percent, delay_ms } => {
            let delay = Duration::from_millis(delay_ms);
            Ok(forwarder::run(&device, Impairment { loss_percent, delay })?)
        }
        Internal::ForwardApi { listen, servers } => Ok(api_forwarder::run(listen, servers)?),
        Internal::Tunnel { here, other, there } => Ok(device::tunnel(&here, other, &there)?),
    }
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}
