//! Compiles the BPF programs with the first toolchain that can, and puts the objects where `include_bytes` finds them.

#![expect(clippy::print_stderr, reason = "how a build script talks to its user")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const PROGRAMS: [&str; 9] = [
    "pod_egress",
    "pod_ingress",
    "net_ingress",
    "net_ingress_raw",
    "net_egress",
    "net_egress_raw",
    "mesh_ingress",
    "sock_lb",
    "floor",
];
const TARGET: &str = "bpfel-unknown-none";

/// A compiler with the sources of `core`.
struct Toolchain {
    name: String,
    rustc: PathBuf,
}

fn main() -> ExitCode {
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let ebpf = manifest.parent().ok_or("the loader's directory has no parent")?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    for input in
        ["programs/src", "programs/Cargo.toml", "programs/Cargo.lock", "programs/.cargo", "abi", "datapath"]
    {
        println!("cargo:rerun-if-changed={}", ebpf.join(input).display());
    }
    let linker = find_linker().ok_or_else(|| missing("bpf-linker is not installed"))?;
    let toolchains = find_toolchains();
    let mut failures = Vec::new();
    for toolchain in &toolchains {
        match build(ebpf, &linker, toolchain) {
            Ok(objects) => {
                for program in PROGRAMS {
                    fs::copy(objects.join(program), out.join(program))
                        .map_err(|e| format!("copy {program}: {e}"))?;
                }
                return Ok(());
            }
            Err(failure) => failures.push(format!("with {}:\n{failure}", toolchain.name)),
        }
    }
    if failures.is_empty() {
        return Err(missing("no Rust toolchain with the sources of the core library was found"));
    }
    Err(format!("the BPF programs do not build\n{}", failures.join("\n")))
}

fn missing(what: &str) -> String {
    format!(
        "{what}: run `make`, which installs what is needed on Debian and Ubuntu, or install either the rustup \
         component rust-src, or the packages rustc-web and rust-web-src; and bpf-linker (cargo install bpf-linker)"
    )
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|e| format!("{name}: {e}"))
}

fn find_linker() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let mut directories: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    directories.extend(cargo_home.map(|home| home.join("bin")));
    directories.into_iter().map(|directory| directory.join("bpf-linker")).find(|path| path.is_file())
}

/// First those of rustup with the component rust-src, then the distribution's.
fn find_toolchains() -> Vec<Toolchain> {
    let mut found = Vec::new();
    let listed = Command::new("rustup").args(["toolchain", "list", "--quiet"]).output();
    let names = listed.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    for name in names.lines().map(str::trim).filter(|name| !name.is_empty()) {
        let which = Command::new("rustup").args(["which", "--toolchain", name, "rustc"]).output();
        let Ok(which) = which else { continue };
        let rustc = PathBuf::from(String::from_utf8_lossy(&which.stdout).trim());
        let sysroot = rustc.parent().and_then(Path::parent);
        if sysroot.is_some_and(|s| s.join("lib/rustlib/src/rust/library/core").is_dir()) {
            found.push(Toolchain { name: format!("rustup toolchain {name}"), rustc });
        }
    }
    let rustc = Path::new("/usr/bin/rustc");
    if rustc.is_file() && Path::new("/usr/lib/rustlib/src/rust/library/core").is_dir() {
        found.push(Toolchain { name: rustc.display().to_string(), rustc: rustc.to_owned() });
    }
    found
}

/// Runs cargo in the programs' workspace, in directories of its own and without the outer cargo's settings: sharing them
/// would wait for its lock forever. What make keeps outside of the checkout has room for what is made on the way.
fn build(ebpf: &Path, linker: &Path, toolchain: &Toolchain) -> Result<PathBuf, String> {
    let target_dir = ebpf.parent().unwrap_or(ebpf).join("target").join("bpf");
    let cache = env::var_os("TOMBOLO_CACHE").map(|cache| PathBuf::from(cache).join("bpf"));
    let _alone = cache.as_deref().map(|cache| take_over(cache, ebpf)).transpose()?;
    let mut cargo = Command::new(variable("CARGO")?);
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let of_cargo =
            name_text.starts_with("CARGO") && name_text != "CARGO_HOME" && name_text != "CARGO_NET_OFFLINE";
        let of_rust = name_text.starts_with("RUST") && name_text != "RUSTUP_HOME";
        if of_cargo || of_rust || matches!(&*name_text, "TARGET" | "HOST" | "PROFILE" | "OPT_LEVEL" | "DEBUG")
        {
            cargo.env_remove(&name);
        }
    }
    let flags = format!("-C linker={} -C debuginfo=2 -C link-arg=--btf", linker.display());
    cargo
        .current_dir(ebpf.join("programs"))
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", &target_dir)
        .args(["build", "--release", "--locked", "--target", TARGET]);
    if env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some() {
        cargo.args(["--features", "other-layout"]);
    }
    if let Some(cache) = &cache {
        cargo.env("CARGO_BUILD_BUILD_DIR", cache);
    }
    let output = cargo.output().map_err(|e| format!("cargo: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(target_dir.join(TARGET).join("release"))
}

/// Keeps other checkouts out of the cache until the file is dropped, and forgets what they have made of their sources:
/// cargo tells checkouts apart by the times of their files only.
fn take_over(cache: &Path, ebpf: &Path) -> Result<fs::File, String> {
    let failed = |e: std::io::Error| format!("{}: {e}", cache.display());
    fs::create_dir_all(cache).map_err(failed)?;
    let lock = fs::File::create(cache.join("lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let (owner, own) = (cache.join("checkout"), ebpf.as_os_str().as_encoded_bytes());
    if fs::read(&owner).is_ok_and(|owner| owner != own) {
        let made = cache.join(TARGET).join("release").join(".fingerprint");
        for entry in fs::read_dir(made).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("tombolo-") {
                fs::remove_dir_all(entry.path()).map_err(failed)?;
            }
        }
    }
    fs::write(owner, own).map_err(failed)?;
    Ok(lock)
}
