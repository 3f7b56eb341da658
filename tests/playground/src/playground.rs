//! Bringing a playground up, and finding the one that runs.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::Family;
use crate::binaries::{Binaries, Extras};
use crate::cgroup::Hierarchy;
use crate::cluster::Cluster;
use crate::control_plane::{self, Keys};
use crate::layout::{Layout, create_dir, read, write};
use crate::link::{self, LinkState};
use crate::lock::Lock;
use crate::outside::Outside;
use crate::place::{Isolation, Place, install_self};
use crate::progress::Progress;
use crate::runc::WRAPPER_NAME;
use crate::spec::{Cni, KubeProxy, Spec};
use crate::underlay::{self, Host};
use crate::{Error, Result, cni, dns, images, inotify, kube_proxy, node, product, teardown};

/// How long another playground command may hold the lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(600);

/// A running playground.
#[derive(Debug, Clone)]
pub struct Playground {
    spec: Spec,
    layout: Layout,
}

#[derive(Debug, Serialize, Deserialize)]
struct State {
    spec: Spec,
    /// False until `up` has finished.
    complete: bool,
}

impl Playground {
    /// Brings a playground up, or finds the one of this shape that runs.
    pub fn up(spec: Spec, layout: &Layout, progress: Progress) -> Result<Self> {
        require_root()?;
        spec.check()?;
        require_families(&spec)?;
        layout.check()?;
        layout.check_own()?;
        let _lock = Lock::take(LOCK_PATIENCE, progress)?;
        if let Some(running) = Self::reuse(&spec, layout, progress)? {
            return Ok(running);
        }
        kube_proxy::check(spec.kube_proxy)?;
        let extras = Extras { helm: spec.cni != Cni::Bridge, kube_proxy: spec.kube_proxy != KubeProxy::None };
        let binaries = Binaries::provide(extras, progress)?;
        let playground = Self { spec, layout: layout.clone() };
        let result = playground.start(&binaries, progress);
        if teardown::is_interrupted() {
            return Err(Error::Interrupted);
        }
        if let Err(error) = result {
            // What has been started stays for its logs to be read; the next `up` removes it.
            progress.say(&format!("logs are in {}", layout.root().display()));
            return Err(error);
        }
        Ok(playground)
    }

    /// The playground that runs.
    pub fn attach(layout: &Layout) -> Result<Self> {
        match load_state(layout)? {
            Some(State { spec, complete: true }) => Ok(Self { spec, layout: layout.clone() }),
            _ => Err(Error::Missing("no playground is up; `playground up` starts one".into())),
        }
    }

    /// Its shape.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its clusters.
    pub fn clusters(&self) -> Vec<Cluster> {
        let make = |(i, name): (usize, &String)| Cluster::new(name, i, &self.spec, &self.layout);
        self.spec.clusters.iter().enumerate().map(make).collect()
    }

    /// The cluster of this name.
    pub fn cluster(&self, name: &str) -> Result<Cluster> {
        self.clusters().into_iter().find(|cluster| cluster.name() == name).ok_or_else(|| {
            Error::Invalid(format!(
                "cluster is {name:?}; this playground has {}",
                self.spec.clusters.join(", ")
            ))
        })
    }

    /// The hosts outside of the clusters.
    pub fn outside_hosts(&self) -> Vec<Outside> {
        Outside::all(&self.spec, &self.layout)
    }

    /// The host outside of the clusters of this name.
    pub fn outside(&self, name: &str) -> Result<Outside> {
        let hosts = self.outside_hosts();
        let names: Vec<String> = hosts.iter().map(Outside::name).collect();
        hosts.into_iter().find(|host| host.name() == name).ok_or_else(|| {
            Error::Invalid(format!(
                "host is {name:?}; outside of the clusters there are {}",
                names.join(", ")
            ))
        })
    }

    /// Puts the link between two clusters into this state, in both directions.
    pub fn set_link(&self, a: &str, b: &str, state: LinkState) -> Result<()> {
        if a == b {
            return Err(Error::Invalid(format!("both ends are {a:?}; name two different clusters")));
        }
        link::set(&self.layout, &self.cluster(a)?, &self.cluster(b)?, state)
    }

    /// Cuts the link between two clusters.
    pub fn link_cut(&self, a: &str, b: &str) -> Result<()> {
        self.set_link(a, b, LinkState { down: true, ..LinkState::default() })
    }

    /// Makes the link between two clusters whole.
    pub fn link_restore(&self, a: &str, b: &str) -> Result<()> {
        self.set_link(a, b, LinkState::default())
    }

    /// Says what does not run of what should, one line each.
    pub fn failures(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        if Place::underlay(&self.layout)?.holder().is_none() {
            found.push("the underlay router is not running".into());
        }
        for host in self.outside_hosts() {
            if host.place()?.holder().is_none() {
                found.push(format!("{} is not running", host.name()));
            }
        }
        for cluster in self.clusters() {
            for (place, component, runs) in cluster.components()? {
                if !runs {
                    found.push(format!("{component} of {}/{place} is not running", cluster.name()));
                }
            }
            if !cluster.is_api_ready()? {
                found.push(format!("the API server of {} is not ready", cluster.name()));
            }
        }
        Ok(found)
    }

    fn reuse(spec: &Spec, layout: &Layout, progress: Progress) -> Result<Option<Self>> {
        let occupied = Hierarchy::find()?.root().exists();
        let Some(state) = load_state(layout)? else {
            if occupied {
                return Err(Error::Occupied(
                    "a playground of another checkout is running; `playground down` ends it".into(),
                ));
            }
            return Ok(None);
        };
        if !state.complete || !occupied {
            progress.say("removing what an unfinished playground left");
            teardown::end(layout, progress)?;
            return Ok(None);
        }
        if state.spec != *spec {
            return Err(Error::Occupied(format!(
                "a playground of another shape is up ({}); `playground down` first",
                state.spec
            )));
        }
        let running = Self { spec: state.spec, layout: layout.clone() };
        let expected: Vec<String> = (0..spec.nodes).map(Cluster::node_name).collect();
        if let Some(cluster) = running.clusters().iter().find(|cluster| cluster.nodes() != expected) {
            return Err(Error::Occupied(format!(
                "the nodes of {} are {}, as nodes were added or removed; `playground down` first",
                cluster.name(),
                cluster.nodes().join(", ")
            )));
        }
        let failures = running.failures()?;
        if failures.is_empty() {
            progress.say("already up");
            return Ok(Some(running));
        }
        Err(Error::Occupied(format!(
            "the playground is up but not healthy: {}; `playground restart` them or `playground down`",
            failures.join("; ")
        )))
    }

    fn start(&self, binaries: &Binaries, progress: Progress) -> Result<()> {
        let layout = &self.layout;
        create_dir(layout.root())?;
        self.save(false)?;
        inotify::raise(layout)?;
        binaries.link_into(&layout.programs())?;
        install_self(layout)?;
        let wrapper = layout.programs().join(WRAPPER_NAME);
        symlink("playground", &wrapper).map_err(Error::io("create", &wrapper))?;
        images::prepare(layout, binaries, progress)?;
        self.start_places(progress)?;
        let clusters = self.clusters();
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let starts: Vec<_> = clusters
                .iter()
                .map(|cluster| scope.spawn(move || self.start_cluster(cluster, progress)))
                .collect();
            starts.into_iter().map(join).collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        self.save(true)
    }

    /// Starts all namespaces and connects them.
    fn start_places(&self, progress: Progress) -> Result<()> {
        let router = Place::underlay(&self.layout)?;
        router.start(&Isolation::Network)?;
        underlay::start(&router, &self.spec)?;
        let mut hosts = Vec::new();
        for cluster in self.clusters() {
            for (index, name) in cluster.control_planes().iter().enumerate() {
                create_dir(&cluster.directory(name))?;
                let place = cluster.place(name)?;
                place.start(&Isolation::Network)?;
                hosts.push(Host::control_plane(&cluster, index, place));
            }
            for index in 0..self.spec.nodes {
                hosts.push(cluster.start_place(index)?);
            }
        }
        for outside in self.outside_hosts() {
            let place = outside.place()?;
            place.start(&Isolation::Network)?;
            hosts.push(Host::outside(&outside, self.spec.ip_family, place));
        }
        underlay::connect(&router, &hosts)?;
        progress.say(&format!("{} network namespaces connected", hosts.len() + 1));
        Ok(())
    }

    fn start_cluster(&self, cluster: &Cluster, progress: Progress) -> Result<()> {
        let name = cluster.name();
        let keys = Keys::create(cluster)?;
        control_plane::start(cluster, &keys)?;
        let nodes = cluster.nodes();
        let results: Vec<Result<()>> = thread::scope(|scope| {
            let runtimes: Vec<_> =
                nodes.iter().map(|node| scope.spawn(move || node::start_runtime(cluster, node))).collect();
            let plane = control_plane::finish(cluster, &keys)
                .inspect(|()| progress.say(&format!("{name}: API server ready")));
            std::iter::once(plane).chain(runtimes.into_iter().map(join)).collect()
        });
        results.into_iter().collect::<Result<()>>()?;
        nodes.iter().try_for_each(|node| node::start(cluster, node, &keys))?;
        dns::apply(cluster, self.spec.cni)?;
        let prefixes = cni::pod_prefixes(cluster)?;
        cni::route_control_planes(cluster, &prefixes)?;
        progress.say(&format!("{name}: {} nodes registered", nodes.len()));
        match self.spec.cni {
            Cni::None => Ok(()),
            Cni::Bridge => {
                cni::install_bridge(cluster, &prefixes)?;
                wait_nodes(cluster)?;
                progress.say(&format!("{name}: nodes ready"));
                Ok(())
            }
            Cni::Tombolo => {
                product::install(cluster, progress)?;
                wait_nodes(cluster)
            }
        }
    }

    fn save(&self, complete: bool) -> Result<()> {
        let state = State { spec: self.spec.clone(), complete };
        let path = self.layout.state();
        let text = serde_json::to_string_pretty(&state)
            .map_err(|cause| Error::Json { what: path.display().to_string(), cause })?;
        write(&path, text)
    }
}

fn load_state(layout: &Layout) -> Result<Option<State>> {
    let path = layout.state();
    if !path.exists() {
        return Ok(None);
    }
    let parse = |cause| Error::Json { what: path.display().to_string(), cause };
    serde_json::from_str(&read(&path)?).map(Some).map_err(parse)
}

fn wait_nodes(cluster: &Cluster) -> Result<()> {
    let arguments = ["wait", "node", "--all", "--for=condition=Ready", "--timeout=120s"];
    cluster.kubectl(&arguments, b"").map(drop)
}

fn join(handle: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn require_families(spec: &Spec) -> Result<()> {
    if !spec.ip_family.families().contains(&Family::V6) || Path::new("/proc/sys/net/ipv6").exists() {
        return Ok(());
    }
    Err(Error::Missing("this machine's kernel has no IPv6; give `--ip-family ipv4`".into()))
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Missing("a playground makes network and mount namespaces; run it as root".into()))
}
