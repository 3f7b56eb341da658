//! The programs of Kubernetes: found on this machine, or built from source in pinned versions.
//!
//! The versions are the Go modules in `kubernetes/`. A program is taken from `KUBEBUILDER_ASSETS`, from
//! PATH when it says that it is of the pinned version, from the cache, or is built into the cache, in
//! this order. The cache is `$TOMBOLO_CACHE/bin/<digest of go.mod and go.sum>/`, by default below
//! `~/.cache/tombolo`.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::image::hex_digest;
use crate::layout::{checkout, create_dir, read};
use crate::place::spawn;
use crate::progress::Progress;
use crate::{Error, Result};

/// The version of Kubernetes that the playground runs.
pub const KUBERNETES: &str = "1.36.3";

/// A program and how to get it.
#[derive(Debug)]
struct Tool {
    name: &'static str,
    /// Directory in `kubernetes/`.
    module: &'static str,
    package: &'static str,
    /// How it is asked for its version and what the answer must contain; None for one that cannot be.
    version: Option<(&'static [&'static str], &'static str)>,
    /// Whether it needs a C compiler.
    cgo: bool,
}

const KUBE: &str = "Kubernetes v1.36.3";
const CONTAINERD_TAGS: &str = "no_btrfs,no_zfs,no_aufs,no_devmapper";

const fn tool(
    name: &'static str,
    module: &'static str,
    package: &'static str,
    version: Option<(&'static [&'static str], &'static str)>,
    cgo: bool,
) -> Tool {
    Tool { name, module, package, version, cgo }
}

/// In the order of building: the API server first, as it compiles what the others share. The programs
/// with `cgo` use the C library's resolver and accounts, or (runc) are partly written in C.
const TOOLS: [Tool; 15] = [
    tool(
        "kube-apiserver",
        "kube",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        Some((&["--version"], KUBE)),
        true,
    ),
    tool(
        "kube-controller-manager",
        "kube",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        Some((&["--version"], KUBE)),
        true,
    ),
    tool(
        "kube-scheduler",
        "kube",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        Some((&["--version"], KUBE)),
        true,
    ),
    tool("kubelet", "kube", "k8s.io/kubernetes/cmd/kubelet", Some((&["--version"], KUBE)), true),
    tool(
        "kubectl",
        "kube",
        "k8s.io/kubernetes/cmd/kubectl",
        Some((&["version", "--client"], "v1.36.3")),
        true,
    ),
    tool("etcd", "etcd", "go.etcd.io/etcd/server/v3", Some((&["--version"], "etcd Version: 3.6.5")), true),
    tool("containerd", "containerd", "github.com/containerd/containerd/v2/cmd/containerd", None, true),
    tool(
        "containerd-shim-runc-v2",
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
        None,
        true,
    ),
    tool("ctr", "containerd", "github.com/containerd/containerd/v2/cmd/ctr", None, true),
    tool(
        "runc",
        "containerd",
        "github.com/opencontainers/runc",
        Some((&["--version"], "runc version 1.5.2")),
        true,
    ),
    tool("bridge", "containerd", "github.com/containernetworking/plugins/plugins/main/bridge", None, false),
    tool(
        "host-local",
        "containerd",
        "github.com/containernetworking/plugins/plugins/ipam/host-local",
        None,
        false,
    ),
    tool(
        "loopback",
        "containerd",
        "github.com/containernetworking/plugins/plugins/main/loopback",
        None,
        false,
    ),
    tool("cnitool", "containerd", "github.com/containernetworking/cni/cnitool", None, false),
    tool("coredns", "coredns", "github.com/coredns/coredns", Some((&["-version"], "CoreDNS-1.14.7")), false),
];

const HELM: Tool = tool("helm", "helm", "helm.sh/helm/v4/cmd/helm", Some((&["version"], "v4.3.1")), false);
const KUBE_PROXY: Tool =
    tool("kube-proxy", "kube", "k8s.io/kubernetes/cmd/kube-proxy", Some((&["--version"], KUBE)), true);

/// What only some clusters need, and takes minutes to build.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extras {
    /// helm, to install the product.
    pub helm: bool,
    /// kube-proxy.
    pub kube_proxy: bool,
}

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    paths: BTreeMap<&'static str, PathBuf>,
}

impl Binaries {
    /// Finds or builds everything that clusters need, and these extras.
    pub fn provide(extras: Extras, progress: Progress) -> Result<Self> {
        let proxy = extras.kube_proxy.then_some(&KUBE_PROXY);
        let tools: Vec<&Tool> = TOOLS.iter().chain(proxy).chain(extras.helm.then_some(&HELM)).collect();
        let mut paths = BTreeMap::new();
        for (i, tool) in tools.iter().enumerate() {
            let path = match tool.find()? {
                Some(path) => path,
                None => tool.build(&format!("{} of {}", i + 1, tools.len()), progress)?,
            };
            paths.insert(tool.name, path);
        }
        Ok(Self { paths })
    }

    /// All programs by name.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        self.paths.iter().map(|(name, path)| (*name, path.as_path()))
    }

    /// One program.
    pub fn path(&self, name: &str) -> Result<&PathBuf> {
        self.paths.get(name).ok_or_else(|| Error::Missing(format!("{name} is not among the programs")))
    }

    /// Links all of them into one directory, for the PATH of nodes.
    pub fn link_into(&self, directory: &Path) -> Result<()> {
        create_dir(directory)?;
        for (name, path) in &self.paths {
            let link = directory.join(name);
            symlink(path, &link).map_err(Error::io("create", &link))?;
        }
        Ok(())
    }
}

impl Tool {
    fn find(&self) -> Result<Option<PathBuf>> {
        if let Some(path) = env::var_os("KUBEBUILDER_ASSETS").map(|dir| Path::new(&dir).join(self.name))
            && path.is_file()
        {
            return Ok(Some(path));
        }
        let cached = self.cached()?;
        if cached.is_file() {
            return Ok(Some(cached));
        }
        let path = env::var_os("PATH").unwrap_or_default();
        Ok(env::split_paths(&path)
            .map(|dir| dir.join(self.name))
            .find(|file| file.is_file() && self.fits(file)))
    }

    fn fits(&self, file: &Path) -> bool {
        let Some((arguments, wanted)) = self.version else { return false };
        Command::new(file)
            .args(arguments)
            .output()
            .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(wanted))
    }

    fn module_dir(&self) -> PathBuf {
        checkout().join("tests/playground/kubernetes").join(self.module)
    }

    fn cached(&self) -> Result<PathBuf> {
        let module = self.module_dir();
        let pins = read(&module.join("go.mod"))? + &read(&module.join("go.sum"))?;
        let digest: String = hex_digest(pins.as_bytes()).chars().take(16).collect();
        Ok(cache_dir()?.join("bin").join(digest).join(self.name))
    }

    fn build(&self, count: &str, progress: Progress) -> Result<PathBuf> {
        let target = self.cached()?;
        let fresh = target.with_extension(format!("{}.new", std::process::id()));
        create_dir(target.parent().unwrap_or(&target))?;
        progress.say(&format!("building {} ({count}; minutes when Go's cache is cold)", self.name));
        let mut command = Command::new("go");
        command.current_dir(self.module_dir()).env("CGO_ENABLED", if self.cgo { "1" } else { "0" });
        command.args(["build", "-mod=readonly", "-trimpath", "-ldflags", self.link_flags()]);
        if self.module == "containerd" && self.cgo && self.name != "runc" {
            command.args(["-tags", CONTAINERD_TAGS]);
        }
        command.arg("-o").arg(&fresh).arg(self.package);
        let mut child = spawn(&mut command).map_err(|error| match error {
            Error::Io { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
                Error::Missing(format!(
                    "{} is not on this machine and there is no `go` to build it; install Go, or set \
                 KUBEBUILDER_ASSETS to a directory with the programs",
                    self.name
                ))
            }
            other => other,
        })?;
        let status = child.wait().map_err(Error::io("wait for", "go"))?;
        if !status.success() {
            return Err(Error::Command {
                command: format!("go build {}", self.package),
                reason: format!("{status}; its messages are above"),
            });
        }
        fs::rename(&fresh, &target).map_err(Error::io("create", &target))?;
        Ok(target)
    }

    fn link_flags(&self) -> &'static str {
        match (self.module, self.name) {
            ("kube", _) => {
                "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
                 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"
            }
            ("helm", _) => "-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
            (_, "runc") => "-s -w -X main.version=1.5.2",
            _ => "-s -w",
        }
    }
}

/// Where programs are kept once they are built: `$TOMBOLO_CACHE`, by default `~/.cache/tombolo`.
pub fn cache_dir() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("TOMBOLO_CACHE") {
        return Ok(PathBuf::from(dir));
    }
    env::var_os("HOME").map(|home| Path::new(&home).join(".cache/tombolo")).ok_or_else(|| {
        Error::Missing("neither TOMBOLO_CACHE nor HOME is set; set one to say where programs are kept".into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned_by_its_module() {
        for tool in TOOLS.iter().chain([&HELM, &KUBE_PROXY]) {
            let imports = fs::read_to_string(tool.module_dir().join("tools.go")).unwrap();
            assert!(imports.contains(&format!("_ \"{}\"", tool.package)), "{}", tool.name);
        }
        let pins = fs::read_to_string(TOOLS[0].module_dir().join("go.mod")).unwrap();
        assert!(pins.contains(&format!("k8s.io/kubernetes v{KUBERNETES}")));
    }

    #[test]
    fn the_readme_names_the_versions_that_run() {
        let readme = fs::read_to_string(crate::layout::checkout().join("README.md")).unwrap();
        let readme = readme.split_whitespace().collect::<Vec<_>>().join(" ");
        let containerd = TOOLS.iter().find(|tool| tool.name == "containerd").unwrap();
        let pins = fs::read_to_string(containerd.module_dir().join("go.mod")).unwrap();
        let (_, pinned) = pins.split_once("github.com/containerd/containerd/v2 v").unwrap();
        let minor = |version: &str| version.split('.').take(2).collect::<Vec<_>>().join(".");
        let wanted = format!("Kubernetes {} with containerd {}.", minor(KUBERNETES), minor(pinned));
        assert!(readme.contains(&wanted), "the README does not say {wanted:?}");
    }

    #[test]
    fn a_program_of_another_version_does_not_fit() {
        let tool = Tool { version: Some((&["1.36.2"], KUBE)), ..TOOLS[0] };
        assert!(!tool.fits(Path::new("/bin/echo")));
        let tool = Tool { version: Some((&[KUBE], KUBE)), ..TOOLS[0] };
        assert!(tool.fits(Path::new("/bin/echo")));
    }
}
