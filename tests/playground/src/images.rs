//! The images that every playground has: the sandbox, the cluster's DNS, and the test pod.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::binaries::Binaries;
use crate::image::{Builder, hex_digest};
use crate::layout::{Layout, checkout, create_dir};
use crate::place::run_here;
use crate::progress::Progress;
use crate::{Error, Result};

/// The image of the process that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/tombolo-pause:1";
/// The image with the test program; see `testpod --help`.
pub const TEST: &str = "localhost/tombolo-test:1";
/// The image of the cluster's DNS.
pub const DNS: &str = "localhost/coredns:1";

/// Builds what is not yet built and puts all three where nodes load them from.
pub fn prepare(layout: &Layout, binaries: &Binaries, progress: Progress) -> Result<()> {
    let cache = checkout().join("target/playground-cache");
    create_dir(&cache)?;
    let testpod = build_testpod(&cache, progress)?;
    let test = |name: &str| Builder::new(name)?.file(&testpod, "/bin/testpod", 0o755);
    let coredns = binaries.path("coredns")?;
    for (name, source, builder) in [
        ("pause", &testpod, test(PAUSE)?.entrypoint(["/bin/testpod", "pause"])),
        ("test", &testpod, test(TEST)?.entrypoint(["/bin/testpod"])),
        ("coredns", coredns, Builder::new(DNS)?.file(coredns, "/coredns", 0o755)?.entrypoint(["/coredns"])),
    ] {
        let archive = cache.join(format!("{name}-{}.tar", stamp(source)?));
        if !archive.exists() {
            progress.say(&format!("building the {name} image"));
            builder.write(&archive)?;
        }
        let link = layout.images().join(format!("{name}.tar"));
        create_dir(&layout.images())?;
        fs::hard_link(&archive, &link)
            .or_else(|_| fs::copy(&archive, &link).map(drop))
            .map_err(Error::io("create", &link))?;
    }
    Ok(())
}

/// Compiles the test program without dependencies on the machine's libraries, which images do not have.
fn build_testpod(cache: &Path, progress: Progress) -> Result<PathBuf> {
    let sources = checkout().join("tests/playground/src/bin/testpod");
    let mut all = Vec::new();
    let mut files: Vec<PathBuf> =
        fs::read_dir(&sources).map_err(Error::io("list", &sources))?.flatten().map(|e| e.path()).collect();
    files.sort();
    for file in &files {
        all.extend(fs::read(file).map_err(Error::io("read", file))?);
    }
    let digest = hex_digest(&all);
    let binary = cache.join(format!("testpod-{}", digest.get(..16).unwrap_or(&digest)));
    if binary.exists() {
        return Ok(binary);
    }
    progress.say("compiling the test program");
    let fresh = binary.with_extension("new");
    let rustc = std::env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
    let (main, output) = (sources.join("main.rs"), fresh.display().to_string());
    let arguments =
        ["--edition=2024", "-Copt-level=2", "-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-Awarnings"];
    let main = main.display().to_string();
    let arguments: Vec<&str> = arguments.into_iter().chain([main.as_str(), "-o", output.as_str()]).collect();
    run_here(&rustc, &arguments, b"")?;
    fs::rename(&fresh, &binary).map_err(Error::io("create", &binary))?;
    Ok(binary)
}

/// Changes whenever the file does.
fn stamp(file: &Path) -> Result<String> {
    let meta = fs::metadata(file).map_err(Error::io("read", file))?;
    let time = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let digest = hex_digest(format!("{} {} {time:?}", file.display(), meta.len()).as_bytes());
    Ok(digest.chars().take(16).collect())
}
