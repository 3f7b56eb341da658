//! What must hold so that no test is left out without a word. Reads sources only, so that it takes seconds.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::registration::Registration;
use crate::workspace::{Suite, Workspace, relative};

/// Everything that is wrong, a line each.
pub fn findings(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found: Vec<String> =
        workspace.suites.iter().flat_map(|suite| of_suite(suite, &workspace.root)).collect();
    found.extend(unreached(workspace)?);
    found.sort();
    found.dedup();
    Ok(found)
}

fn of_suite(suite: &Suite, root: &Path) -> Vec<String> {
    let registers = suite.is_integration && suite.has_registered_tests();
    let mut found = Vec::new();
    for function in &suite.source.functions {
        let mut say = |what: String| {
            let file = relative(root, &function.file).display();
            found.push(format!("{file}:{}: {} {what}", function.line, function.name));
        };
        match &function.ignored {
            Some(_) if !function.is_test => {
                say("says what it needs, but is no test; add #[test] or #[tokio::test]".to_owned());
            }
            Some(_) if function.parent().is_some() => {
                let parent = function.parent().unwrap_or_default();
                if !suite.source.functions.iter().any(|other| other.is_test && other.name.ends_with(parent)) {
                    say(format!("runs as a child of {parent}, which is no test of its suite"));
                }
            }
            Some(reason) => {
                if let Err(error) = Registration::parse(reason) {
                    say(format!("says what it needs in words that cannot be read: {error}"));
                }
            }
            None if registers => say("does not say what it needs, while others of its suite do; \
                 add #[ignore = \"needs …; 5 s\"], or move it to a suite of tests that need nothing"
                .to_owned()),
            None => {}
        }
    }
    found
}

/// Files of Rust that no target reaches by its modules: they are not compiled, and their tests are not run.
fn unreached(workspace: &Workspace) -> Result<Vec<String>> {
    let reached: BTreeSet<PathBuf> =
        workspace.suites.iter().flat_map(|suite| &suite.source.files).map(normal).collect();
    let mut found = Vec::new();
    for package in &workspace.packages {
        let mut files = Vec::new();
        collect(package, &mut files)?;
        for file in files.iter().filter(|file| !reached.contains(&normal(file))) {
            let file = relative(&workspace.root, file).display();
            found.push(format!(
                "{file}: no module reaches this file, so that nothing in it is compiled or tested"
            ));
        }
    }
    Ok(found)
}

/// The sources of a package; directories with a manifest of their own belong to others.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !path.join("Cargo.toml").exists() && entry.file_name() != "target" {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Without `..`, as modules with a path may have it.
fn normal(path: impl AsRef<Path>) -> PathBuf {
    fs::canonicalize(&path).unwrap_or_else(|_| path.as_ref().to_owned())
}
