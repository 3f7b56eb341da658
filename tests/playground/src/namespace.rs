//! The inner side of a place: the process that makes and holds its namespaces, and the one that enters
//! them to become a program. Both are re-executions of `playground`, single-threaded as setns(2) demands.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, sethostname, setsid};

use crate::cgroup::Cgroup;
use crate::layout::create_dir;
use crate::place::Isolation;
use crate::{Error, Result};

/// Makes the namespaces of the place whose cgroup is given, says `ready` on standard output, and then
/// holds them until it is killed.
pub fn hold(cgroup: &Cgroup, isolation: &Isolation) -> Result<()> {
    cgroup.join()?;
    setsid().map_err(Error::system("start a session"))?;
    match isolation {
        Isolation::Network => {
            unshare(CloneFlags::CLONE_NEWNET).map_err(Error::system("unshare the network"))?;
            set_forwarding()?;
        }
        Isolation::Node { hostname, .. } => {
            let flags = CloneFlags::CLONE_NEWNET
                | CloneFlags::CLONE_NEWNS
                | CloneFlags::CLONE_NEWUTS
                | CloneFlags::CLONE_NEWCGROUP;
            unshare(flags).map_err(Error::system("unshare the namespaces of a node"))?;
            sethostname(hostname).map_err(Error::system("set the host name"))?;
        }
    }
    // Only now, as the cgroup namespace is rooted where the process was when it unshared.
    cgroup.child("system").child("init").join()?;
    if cgroup.path().parent().is_some_and(|root| Cgroup::at(root).delegate().is_ok()) {
        // Without controllers (hybrid layout) there is nothing to hand on.
        let _ = cgroup.delegate();
    }
    if let Isolation::Node { directory, nameserver, .. } = isolation {
        mount_node(directory, *nameserver)?;
    }
    let mut stdout = io::stdout();
    writeln!(stdout, "ready").and_then(|()| stdout.flush()).map_err(Error::io("write to", "stdout"))?;
    loop {
        std::thread::park();
    }
}

/// Enters the namespaces of the process `holder` and becomes `argv`; returns only on failure.
pub fn enter(holder: i32, cgroup: &Cgroup, new_session: bool, argv: &[String]) -> Result<()> {
    cgroup.join()?;
    if new_session {
        setsid().map_err(Error::system("start a session"))?;
    }
    let open = |kind: &str| {
        let path = format!("/proc/{holder}/ns/{kind}");
        File::open(&path).map_err(Error::io("open", &path))
    };
    // All are opened first: entering the mount namespace may hide /proc entries of the others.
    let namespaces = [
        (open("cgroup")?, CloneFlags::CLONE_NEWCGROUP),
        (open("uts")?, CloneFlags::CLONE_NEWUTS),
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    for (file, kind) in &namespaces {
        setns(file, *kind).map_err(Error::system(format!("enter a namespace of process {holder}")))?;
    }
    chdir("/").map_err(Error::system("go to /"))?;
    execute(argv)
}

/// Joins a cgroup and becomes `argv`; returns only on failure.
pub fn join(cgroup: &Cgroup, argv: &[String]) -> Result<()> {
    cgroup.join()?;
    execute(argv)
}

fn execute(argv: &[String]) -> Result<()> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Error::Invalid("no command given; name one after `--`".into()));
    };
    Err(Error::io("run", program)(Command::new(program).args(arguments).exec()))
}

/// Gives the node mounts of its own, shared among themselves so that hostPath volumes with
/// bidirectional propagation work, and invisible to the machine.
fn mount_node(directory: &Path, nameserver: IpAddr) -> Result<()> {
    change("/", MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
    for (name, target) in [("var", "/var"), ("opt", "/opt")] {
        let source = directory.join(name);
        create_dir(&source)?;
        mount(Some(&source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Error::system(format!("bind {target}")))?;
    }
    let [upper, work] = [directory.join("etc"), directory.join("etc.work")];
    create_dir(&upper)?;
    create_dir(&work)?;
    let layers = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    fresh("overlay", "/etc", Some(&layers))?;
    fresh("tmpfs", "/run", Some("mode=755"))?;
    fresh("sysfs", "/sys", None)?;
    fresh("cgroup2", "/sys/fs/cgroup", None)?;
    fresh("bpf", "/sys/fs/bpf", None)?;
    change("/", MsFlags::MS_REC | MsFlags::MS_SHARED)?;
    for dir in ["/etc/cni/net.d", "/opt/cni/bin", "/var/lib", "/var/log", "/var/tmp", "/run/lock"] {
        create_dir(Path::new(dir))?;
    }
    std::os::unix::fs::symlink("/run", "/var/run")
        .or_else(exists)
        .map_err(Error::io("create", "/var/run"))?;
    // It may be a link into the machine's /run, so it is replaced and not written through.
    fs::remove_file("/etc/resolv.conf").or_else(absent).map_err(Error::io("remove", "/etc/resolv.conf"))?;
    fs::write("/etc/resolv.conf", format!("nameserver {nameserver}\n"))
        .map_err(Error::io("write", "/etc/resolv.conf"))
}

fn change(target: &str, flags: MsFlags) -> Result<()> {
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(Error::system(format!("change the propagation of {target}")))
}

fn fresh(kind: &str, target: &str, options: Option<&str>) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .map_err(Error::system(format!("mount {kind} on {target}")))
}

/// Makes a router. A node is left as machines are: forwarding is for its network plugin to turn on. /proc/sys/net
/// shows the settings of the reader's network namespace; a kernel may lack IPv6.
fn set_forwarding() -> Result<()> {
    for file in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
        fs::write(file, "1").or_else(absent).map_err(Error::io("write", file))?;
    }
    Ok(())
}

fn exists(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
