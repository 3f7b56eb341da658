//! The targets of the workspace, and the programs that cargo makes of them.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, Metadata, MetadataCommand, PackageId, Target, TargetKind};

use crate::registration::Registration;
use crate::source::{Function, Source};

/// A target that may have tests, with what its sources say.
#[derive(Debug)]
pub struct Suite {
    /// The package's name.
    pub package: String,
    /// The target's name.
    pub target: String,
    /// Whether it is a file below `tests`, and not a library or program with unit tests.
    pub is_integration: bool,
    /// Whether cargo makes a program of its tests without being asked for it by name or feature.
    pub is_tested: bool,
    /// The package's directory, in which its tests run.
    pub directory: PathBuf,
    /// Its functions and files.
    pub source: Source,
    id: (PackageId, String, Vec<TargetKind>),
}

/// A test that says what it needs.
#[derive(Debug, Clone)]
pub struct Registered {
    /// Position of its suite.
    pub suite: usize,
    /// Its path within the suite's program.
    pub name: String,
    /// What it needs.
    pub registration: Registration,
}

/// All suites of the workspace.
#[derive(Debug)]
pub struct Workspace {
    /// The root directory.
    pub root: PathBuf,
    /// The directories of all packages.
    pub packages: Vec<PathBuf>,
    /// The suites, in the order of cargo.
    pub suites: Vec<Suite>,
}

impl Workspace {
    /// Reads the workspace of the current directory. Compiles nothing.
    pub fn read() -> Result<Self> {
        let metadata = MetadataCommand::new()
            .no_deps()
            .other_options(["--locked".to_owned()])
            .exec()
            .context("cargo cannot describe the workspace")?;
        Self::of(&metadata)
    }

    /// Reads what cargo describes.
    pub fn of(metadata: &Metadata) -> Result<Self> {
        let mut workspace =
            Self { root: metadata.workspace_root.clone().into(), packages: Vec::new(), suites: Vec::new() };
        for package in metadata.workspace_packages() {
            let directory: PathBuf = package.manifest_path.parent().map(Into::into).unwrap_or_default();
            workspace.packages.push(directory.clone());
            for target in &package.targets {
                let source = Source::read(target.src_path.as_std_path())?;
                workspace.suites.push(Suite {
                    package: package.name.to_string(),
                    target: target.name.clone(),
                    is_integration: target.is_test(),
                    is_tested: target.test && target.required_features.is_empty(),
                    directory: directory.clone(),
                    source,
                    id: key(&package.id, target),
                });
            }
        }
        Ok(workspace)
    }

    /// All tests that say what they need. Fails where one cannot be read; [`crate::check`] says it better.
    pub fn registered(&self) -> Result<Vec<Registered>> {
        let mut all = Vec::new();
        for (suite, read) in self.suites.iter().enumerate() {
            for function in &read.source.functions {
                if let (Some(reason), None) = (&function.ignored, function.parent()) {
                    let registration = Registration::parse(reason)
                        .with_context(|| format!("{}:{}", function.file.display(), function.line))?;
                    all.push(Registered { suite, name: function.name.clone(), registration });
                }
            }
        }
        Ok(all)
    }

    /// Lets cargo make the test programs: by suite, with the suites that have none left out.
    pub fn build(&self) -> Result<HashMap<usize, PathBuf>> {
        let mut command = Command::new("cargo");
        command.args([
            "test",
            "--locked",
            "--workspace",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]);
        let mut cargo =
            command.current_dir(&self.root).stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
        let output = cargo.stdout.take().context("cargo has no output")?;
        let mut programs = HashMap::new();
        for message in Message::parse_stream(BufReader::new(output)) {
            let Message::CompilerArtifact(artifact) = message.context("cannot read what cargo says")? else {
                continue;
            };
            let (Some(program), true) = (artifact.executable, artifact.profile.test) else { continue };
            let id = key(&artifact.package_id, &artifact.target);
            if let Some(suite) = self.suites.iter().position(|suite| suite.id == id) {
                programs.insert(suite, program.into());
            }
        }
        ensure!(cargo.wait().context("cannot wait for cargo")?.success(), "the tests do not compile");
        Ok(programs)
    }
}

impl Suite {
    /// How it is called in what the runner says: the target of an integration test, else the package.
    pub fn title(&self) -> String {
        if self.is_integration { format!("{}::{}", self.short(), self.target) } else { self.package.clone() }
    }

    /// The package's name without the project's.
    pub fn short(&self) -> &str {
        self.package.strip_prefix("tombolo-").unwrap_or(&self.package)
    }

    /// Whether tests remain that need nothing.
    pub fn has_plain_tests(&self) -> bool {
        !self.is_integration || self.source.functions.iter().any(Function::is_plain)
            // Macros make tests that the sources do not show.
            || self.source.functions.is_empty()
    }

    /// Whether it has tests that say what they need.
    pub fn has_registered_tests(&self) -> bool {
        self.source.functions.iter().any(|function| function.ignored.is_some())
    }
}

impl Function {
    /// A test that needs nothing.
    pub fn is_plain(&self) -> bool {
        self.is_test && self.ignored.is_none()
    }

    /// The test that runs this one, as a process of its own, and that alone may do so.
    pub fn parent(&self) -> Option<&str> {
        self.ignored.as_deref()?.strip_prefix("runs as a child of ")
    }
}

fn key(package: &PackageId, target: &Target) -> (PackageId, String, Vec<TargetKind>) {
    (package.clone(), target.name.clone(), target.kind.clone())
}

/// A path as it is seen from the root of the workspace.
pub fn relative<'a>(root: &Path, file: &'a Path) -> &'a Path {
    file.strip_prefix(root).unwrap_or(file)
}
