//! Places: sets of namespaces that programs run in, seen from the machine.
//!
//! A place is held by a process that does nothing else. There is no process-id file: the holder is the
//! one process in the place's cgroup `system/init`.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{env, fs};

use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, Hierarchy};
use crate::layout::{Layout, checkout};
use crate::{Error, Result};

/// Which namespaces a place has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// The network namespace only.
    Network,
    /// Network, mount, UTS and cgroup namespaces: a node.
    Node {
        /// Host name.
        hostname: String,
        /// Directory with the node's own /var, /opt and /etc changes.
        directory: PathBuf,
        /// Where the node's DNS queries go.
        nameserver: IpAddr,
    },
}

/// A place, running or not.
#[derive(Debug, Clone)]
pub struct Place {
    name: String,
    cgroup: Cgroup,
    programs: PathBuf,
}

impl Place {
    /// The underlay router.
    pub fn underlay(layout: &Layout) -> Result<Self> {
        Self::named("underlay".into(), layout)
    }

    /// A node or a control plane of a cluster.
    pub fn of_cluster(layout: &Layout, cluster: &str, name: &str) -> Result<Self> {
        Self::named(format!("{cluster}.{name}"), layout)
    }

    /// A host outside of the clusters.
    pub fn outside(layout: &Layout, name: &str) -> Result<Self> {
        Self::named(name.to_owned(), layout)
    }

    fn named(name: String, layout: &Layout) -> Result<Self> {
        let cgroup = Hierarchy::find()?.root().child(&name);
        Ok(Self { name, cgroup, programs: layout.programs() })
    }

    /// Its name, unique on the machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The process that holds the namespaces, when the place runs.
    pub fn holder(&self) -> Option<i32> {
        self.holder_cgroup().processes().first().copied()
    }

    /// Starts the holder and returns when the namespaces are complete.
    pub fn start(&self, isolation: &Isolation) -> Result<i32> {
        create_alive(&self.holder_cgroup())?;
        let text = serde_json::to_string(isolation)
            .map_err(|cause| Error::Json { what: self.name.clone(), cause })?;
        let mut command = Command::new(self.programs.join("playground"));
        command.args(["internal", "hold"]).arg(self.cgroup.path()).arg(text);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&mut command)?;
        let mut line = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(Error::io("read from", &self.name))?;
        }
        if line.trim() != "ready" {
            return Err(failure(
                &command,
                &child.wait_with_output().map_err(Error::io("wait for", &self.name))?,
            ));
        }
        self.holder().ok_or_else(|| Error::Missing(format!("the holder of {} died at once", self.name)))
    }

    /// The command that runs `argv` in this place, in the cgroup `system/<unit>`. It keeps the caller's
    /// session and standard streams.
    pub fn command(&self, unit: &str, argv: &[String]) -> Result<Command> {
        let holder = self.holder().ok_or_else(|| {
            Error::Missing(format!("{} is not running; `playground up` starts it", self.name))
        })?;
        let cgroup = self.unit_cgroup(unit);
        create_alive(&cgroup)?;
        let mut command = Command::new(self.programs.join("playground"));
        command.args(["internal", "enter", &holder.to_string()]).arg(cgroup.path()).arg("--").args(argv);
        command.env("PATH", search_path(&self.programs));
        Ok(command)
    }

    /// Runs `argv` to its end with `input` on standard input; an exit code other than 0 is no error.
    pub fn output(&self, argv: &[&str], input: &[u8]) -> Result<Output> {
        let argv: Vec<String> = argv.iter().map(|&arg| arg.to_owned()).collect();
        run(&mut self.command("exec", &argv)?, input)
    }

    /// Runs `argv` with `input`; anything but success is an error.
    pub fn run(&self, argv: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let output = self.output(argv, input)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(Error::Command {
            command: format!("{} (in {})", argv.join(" "), self.name),
            reason: reason(&output),
        })
    }

    /// The cgroup of a unit of this place.
    pub fn unit_cgroup(&self, unit: &str) -> Cgroup {
        self.cgroup.child("system").child(unit)
    }

    fn holder_cgroup(&self) -> Cgroup {
        self.unit_cgroup("init")
    }
}

/// Runs a command on the machine itself to its end; anything but success is an error.
pub fn run_here(program: &Path, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = run(&mut command, input)?;
    if output.status.success() { Ok(output.stdout) } else { Err(failure(&command, &output)) }
}

/// Runs a program on the machine itself, but in the playground's cgroup so that it ends with it; anything
/// but success is an error.
pub fn run_contained(layout: &Layout, argv: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let cgroup = Hierarchy::find()?.root().child("machine");
    create_alive(&cgroup)?;
    let mut command = Command::new(layout.programs().join("playground"));
    command.args(["internal", "join"]).arg(cgroup.path()).arg("--").args(argv);
    let output = run(&mut command, input)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::Command { command: argv.join(" "), reason: reason(&output) })
}

/// Creates a cgroup unless the playground is being ended, which removes them.
fn create_alive(cgroup: &Cgroup) -> Result<()> {
    let _alive = crate::teardown::spawning()?;
    cgroup.create()
}

/// Copies this program to where nodes find it, so that a later build cannot change what runs.
pub fn install_self(layout: &Layout) -> Result<()> {
    let source = own_program()?;
    let target = layout.programs().join("playground");
    let fresh = layout.programs().join("playground.new");
    fs::copy(&source, &fresh).map_err(Error::io("copy", &source))?;
    fs::rename(&fresh, &target).map_err(Error::io("create", &target))
}

/// The `playground` program: this process, what `TOMBOLO_PLAYGROUND` names, or what cargo built for this
/// test or into the checkout's target directory.
fn own_program() -> Result<PathBuf> {
    let this = env::current_exe().map_err(Error::io("find", "/proc/self/exe"))?;
    if this.file_name().is_some_and(|name| name == "playground") {
        return Ok(this);
    }
    let named = ["TOMBOLO_PLAYGROUND", "CARGO_BIN_EXE_playground"].into_iter().filter_map(env::var_os);
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    let built = ["debug", "release"].map(|profile| target.join(profile).join("playground"));
    named.map(PathBuf::from).chain(built).find(|file| file.is_file()).ok_or_else(|| {
        Error::Missing(
            "no `playground` program found; run `cargo build -p tombolo-playground` or name it by TOMBOLO_PLAYGROUND".into(),
        )
    })
}

/// Starts a process unless the playground is being ended.
pub fn spawn(command: &mut Command) -> Result<Child> {
    let _alive = crate::teardown::spawning()?;
    command.spawn().map_err(Error::io("run", command.get_program()))
}

/// Runs a command to its end with `input` on its standard input.
fn run(command: &mut Command, input: &[u8]) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input says why by its exit code.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output().map_err(Error::io("wait for", command.get_program()))
}

fn failure(command: &Command, output: &Output) -> Error {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    Error::Command { command: words.join(" "), reason: reason(output) }
}

fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    if text.trim().is_empty() { output.status.to_string() } else { text.trim().to_owned() }
}

fn search_path(programs: &Path) -> String {
    format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", programs.display())
}
