//! Files that no target has.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::workspace::{Workspace, relative};

/// Files of Rust that no target reaches by its modules: they are not compiled, and their tests are not run.
pub fn unreached(workspace: &Workspace) -> Result<Vec<String>> {
    let reached: BTreeSet<PathBuf> =
        workspace.suites.iter().flat_map(|suite| &suite.source.files).map(normal).collect();
    let members: BTreeSet<PathBuf> = workspace.packages.iter().map(normal).collect();
    let mut files = Vec::new();
    collect(&workspace.root, &mut files)?;
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !reached.contains(&normal(file))) {
        let of_member = package(file).is_some_and(|package| members.contains(&normal(package)));
        let file_name = relative(&workspace.root, file).display();
        if of_member {
            found.push(format!(
                "{file_name}: no module reaches this file, so that nothing in it is compiled or tested"
            ));
        } else if holds_a_test(file)? {
            found.push(format!("{file_name}: has tests, but belongs to no member of the workspace"));
        }
    }
    Ok(found)
}

/// The directory of the package that a file belongs to.
fn package(file: &Path) -> Option<&Path> {
    file.ancestors().skip(1).find(|directory| directory.join("Cargo.toml").exists())
}

fn holds_a_test(file: &Path) -> Result<bool> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(["#[test]", "::test]", "::test("].iter().any(|mark| text.contains(mark)))
}

/// All sources, without what cargo makes and what is hidden.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let of_cargo = directory.join("Cargo.toml").exists();
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            let is_hidden = name.as_encoded_bytes().starts_with(b".");
            if !(is_hidden || of_cargo && name == "target") {
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
