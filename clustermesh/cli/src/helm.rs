//! Drives helm with the chart that this binary carries.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, bail};
use include_dir::{Dir, include_dir};
use tempfile::TempDir;
use tokio::process::Command;

static CHART: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../deploy/chart");

/// The name of the release, also in the cluster.
pub const RELEASE: &str = "tombolo";

/// The carried chart, unpacked for as long as this lives.
pub struct Chart(TempDir);

impl Chart {
    /// Unpacks the chart into a temporary directory.
    pub fn unpack() -> anyhow::Result<Self> {
        let dir = TempDir::new().context("cannot make a temporary directory for the chart")?;
        CHART.extract(dir.path()).context("cannot unpack the chart")?;
        Ok(Self(dir))
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// The manifests of its custom resources.
    pub fn crds() -> impl Iterator<Item = &'static [u8]> {
        CHART.get_dir("crds").into_iter().flat_map(Dir::files).map(include_dir::File::contents)
    }
}

/// Runs helm and returns what it printed; its error is ours.
pub async fn run(args: &[String]) -> anyhow::Result<String> {
    let output = Command::new("helm").args(args).stdin(Stdio::null()).output().await;
    let output = match output {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "helm is not in PATH: install it (https://helm.sh/docs/intro/install) and run the command again; \
             nothing was changed"
        ),
        Err(error) => return Err(error).context("cannot run helm"),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "helm {}: {}",
            args.first().map_or("", String::as_str),
            said.trim().trim_start_matches("Error: ")
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether helm can be run at all.
pub async fn available() -> anyhow::Result<()> {
    run(&["version".to_owned(), "--short".to_owned()]).await.map(drop)
}
