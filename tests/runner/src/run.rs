//! Runs what was chosen: programs whose tests need nothing, then batches of tests that say what they need.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::judge::{Ending, Exit, judge, patience};
use crate::plan::{Batch, Stage, batches};
use crate::playground::Shared;
use crate::process::Program;
use crate::registration::Family;
use crate::report::Report;
use crate::workspace::{Registered, Workspace};

/// Tests that run at the same time on a playground: they mostly wait for Kubernetes.
const ON_A_PLAYGROUND: usize = 4;

/// Programs that run at the same time: each has a thread for each processor, and some mostly wait.
const PROGRAMS: usize = 2;

/// How long such a program may run before it is killed: the longest takes four minutes.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// What shall run.
#[derive(Debug)]
pub struct Choice {
    /// Suites whose plain tests run.
    pub plain: Vec<usize>,
    /// Tests that say what they need.
    pub registered: Vec<Registered>,
}

/// Runs everything and says what became of it; whether all is well.
pub fn run(workspace: &Workspace, choice: &Choice) -> Result<bool> {
    let started = Instant::now();
    let programs = workspace.build()?;
    complete(workspace, &programs)?;
    let batches = batches(&choice.registered);
    let plain: Vec<_> = choice.plain.iter().copied().filter(|suite| programs.contains_key(suite)).collect();
    let runs: usize = batches.iter().map(|batch| batch.together.len() + batch.alone.len()).sum();
    let runner = Runner { workspace, programs: &programs, report: Report::new(plain.len() + runs) };
    if !plain.is_empty() {
        runner.report.heading("tests that need nothing");
        side_by_side(&plain, PROGRAMS, |suite| runner.plain(*suite));
    }
    for batch in &batches {
        runner.batch(batch);
    }
    Ok(runner.report.close(started.elapsed()))
}

/// Fails if a program has a test that nobody would run, or lacks one that its sources have.
fn complete(workspace: &Workspace, programs: &HashMap<usize, PathBuf>) -> Result<()> {
    for (index, suite) in workspace.suites.iter().enumerate() {
        let functions = || suite.source.functions.iter().filter(|function| function.is_test);
        let title = suite.title();
        let Some(path) = programs.get(&index) else {
            if functions().next().is_none() {
                continue;
            }
            bail!("cargo makes no program of {title}, which has tests");
        };
        let program = Program { path, directory: &suite.directory };
        let names = |ignored: bool| {
            let of_kind = functions().filter(|function| function.ignored.is_some() == ignored);
            of_kind.map(|function| function.name.clone()).collect::<BTreeSet<_>>()
        };
        let ignored: BTreeSet<_> = program.list(true)?.into_iter().collect();
        if ignored != names(true) {
            bail!(
                "{title} has the tests {ignored:?} that need something, but its sources show {:?}; \
                 write `#[ignore = \"needs …\"]` at each function itself, not in a macro",
                names(true)
            );
        }
        // Macros may make more than the sources show.
        let all: BTreeSet<_> = program.list(false)?.into_iter().collect();
        let lost: Vec<_> = names(false).into_iter().filter(|name| !all.contains(name)).collect();
        ensure!(lost.is_empty(), "{title} does not have the tests {lost:?} that its sources show");
        let idle: Vec<_> = all.difference(&ignored).collect();
        ensure!(
            suite.has_plain_tests() || idle.is_empty(),
            "{title} has the tests {idle:?}, which nothing runs, as they do not say what they need like its others"
        );
    }
    Ok(())
}

struct Runner<'a> {
    workspace: &'a Workspace,
    programs: &'a HashMap<usize, PathBuf>,
    report: Report,
}

impl Runner<'_> {
    fn plain(&self, index: usize) {
        let suite = &self.workspace.suites[index];
        let title = suite.title();
        // A package's library and its programs have one title, and may run at the same time.
        let log = self.log(&title, &suite.target);
        let run = match self.program(index).and_then(|program| program.run(&[], log, PATIENCE)) {
            Ok(run) => run,
            Err(error) => return self.report.trouble(&format!("{title}: {error:#}")),
        };
        let (passed, mut failed) = totals(&run.output);
        if run.exit == Exit::Killed {
            failed.push(format!("its program did not end in {} s", PATIENCE.as_secs()));
        } else if run.exit == Exit::Failure && failed.is_empty() {
            failed.push("its program ended with a failure".to_owned());
        } else if run.exit == Exit::Success && passed.is_none() {
            failed.push("its program ended before its tests did".to_owned());
        }
        self.report.program(&title, passed.unwrap_or(0), &failed, &run);
    }

    /// Runs a batch on its place. If that cannot be had, all tests of the batch fail, and other batches go on.
    fn batch(&self, batch: &Batch) {
        let count = batch.together.len() + batch.alone.len();
        self.report.heading(&match batch.stage {
            Stage::Machine => format!("{count} tests on the machine"),
            Stage::Playground { clusters, nodes, family } => {
                format!("{count} tests on a playground of {clusters} clusters of {nodes} nodes, {family}")
            }
        });
        let shared = match Shared::up(&self.workspace.root, batch.stage) {
            Ok(shared) => shared,
            Err(error) => {
                self.report.heading(&format!("they have no place: {error:#}"));
                for test in batch.together.iter().chain(&batch.alone) {
                    self.report.trouble(&format!("{}: it did not run", test.name));
                }
                return;
            }
        };
        let processors = thread::available_parallelism().map_or(2, usize::from);
        let beside = if batch.stage == Stage::Machine { processors } else { ON_A_PLAYGROUND };
        self.all(&batch.together, batch.stage, beside);
        self.all(&batch.alone, batch.stage, 1);
        if let Some(Err(error)) = shared.map(Shared::down) {
            self.report.trouble(&format!("the playground did not end cleanly: {error:#}"));
        }
    }

    fn all(&self, tests: &[Registered], stage: Stage, beside: usize) {
        side_by_side(tests, beside, |test| {
            if let Err(error) = self.registered(test, stage) {
                self.report.trouble(&format!("{}: {error:#}", test.name));
            }
        });
    }

    fn registered(&self, test: &Registered, stage: Stage) -> Result<()> {
        let title = self.workspace.suites[test.suite].title();
        let suffix = match stage {
            Stage::Playground { family, .. } if family != Family::Dual => format!(" on {family}"),
            _ => String::new(),
        };
        let arguments = ["--ignored", "--exact", &test.name, "--nocapture", "--test-threads", "1"];
        let log = self.log(&title, &format!("{}{suffix}", test.name).replace(' ', "-"));
        let run = self.program(test.suite)?.run(&arguments, log, patience(&test.registration))?;
        let verdict =
            judge(&test.registration, Ending { exit: run.exit, output: &run.output, took: run.took });
        let module = test.name.split_once("::").map(|(module, _)| module);
        let suite = module.map_or_else(|| title.clone(), |module| format!("{title}::{module}")) + &suffix;
        let (name, known) =
            (format!("{title}::{}{suffix}", test.name), test.registration.known_to_fail.as_deref());
        self.report.test(&suite, &name, test.registration.seconds, known, &verdict, &run);
        Ok(())
    }

    fn program(&self, suite: usize) -> Result<Program<'_>> {
        let path = self.programs.get(&suite).context("cargo made no program of it")?;
        Ok(Program { path, directory: &self.workspace.suites[suite].directory })
    }

    fn log(&self, suite: &str, name: &str) -> PathBuf {
        let file = format!("{}.log", name.replace("::", "."));
        self.workspace.root.join("target/test-logs").join(suite.replace("::", ".")).join(file)
    }
}

/// Does something with each of them, in their order and with so many at the same time.
fn side_by_side<T: Sync>(items: &[T], many: usize, act: impl Fn(&T) + Sync) {
    let queue = Mutex::new(items.iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    thread::scope(|scope| {
        for _ in 0..many.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = next() {
                    act(item);
                }
            });
        }
    });
}

/// How many tests passed by what their program said at its end, and the names of those that failed.
fn totals(output: &str) -> (Option<usize>, Vec<String>) {
    let words = output.lines().rev().find_map(|line| line.strip_prefix("test result: "));
    let passed = words.and_then(|words| words.split_once(". ")?.1.split_once(" passed")?.0.parse().ok());
    let failed = output.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    (passed, failed.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        let output = "running 2 tests\ntest a::b ... ok\ntest c ... FAILED\n\n\
            test result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(totals(output), (Some(12), vec!["c".to_owned()]));
        assert_eq!(totals("killed"), (None, vec![]));
    }
}
