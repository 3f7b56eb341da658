//! What must hold so that no test is left out without a word. Reads sources only, so that it takes seconds.

mod files;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::registration::Registration;
use crate::source::Function;
use crate::workspace::{Suite, Workspace, relative};

/// Everything that is wrong, a line each.
pub fn findings(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found: Vec<String> =
        workspace.suites.iter().flat_map(|suite| of_suite(suite, &workspace.root)).collect();
    found.extend(files::unreached(workspace)?);
    found.extend(without_harness(workspace)?);
    found.extend(examples(workspace)?);
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
        if function.is_conditional {
            say("is left out of some builds by a #[cfg] or #[cfg_attr] around it; take that away".to_owned());
        }
        if !suite.is_tested {
            say(format!("stands in {}, of which cargo makes no program of tests", suite.target));
        }
        match &function.ignored {
            Some(_) if !function.is_test => {
                say("says what it needs, but is no test; add #[test] or #[tokio::test]".to_owned());
            }
            Some(_) if function.parent().is_some() => {
                let parent = function.parent().unwrap_or_default();
                if !suite.source.functions.iter().any(|other| other.is_test && other.is_called(parent)) {
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
    for made in &suite.source.macros {
        let mut say = |what: &str| {
            let file = relative(root, &made.file).display();
            found.push(format!("{file}:{}: a macro makes tests {what}", made.line));
        };
        if made.ignores {
            say("and leaves some out with #[ignore], which nothing reads there; write those as functions");
        } else if registers {
            say("in a suite whose tests say what they need, and nothing runs them; move it to another suite");
        } else if !suite.is_tested {
            say("in a target of which cargo makes no program of tests");
        }
    }
    found
}

impl Function {
    /// Whether this is its own name, without that of its module.
    fn is_called(&self, name: &str) -> bool {
        self.name.rsplit("::").next() == Some(name)
    }
}

/// Programs whose main function runs in place of their tests, which the sources do not show.
fn without_harness(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for package in &workspace.packages {
        let manifest = package.join("Cargo.toml");
        let text =
            fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        if text.lines().any(|line| line.replace(' ', "").starts_with("harness=false")) {
            let manifest = relative(&workspace.root, &manifest).display();
            found.push(format!("{manifest}: has `harness = false`, with which no #[test] runs; take it out"));
        }
    }
    Ok(found)
}

/// Examples in comments, which rustdoc would run and `runner run` does not.
fn examples(workspace: &Workspace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let files: BTreeSet<_> = workspace.suites.iter().flat_map(|suite| &suite.source.files).collect();
    for file in files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        for line in doc_tests(&text) {
            let file = relative(&workspace.root, file).display();
            found.push(format!(
                "{file}:{line}: this example would be a test of rustdoc, which nothing runs; open it with ```text"
            ));
        }
    }
    Ok(found)
}

/// The lines, from 1, on which a comment opens an example of Rust.
fn doc_tests(text: &str) -> Vec<usize> {
    let (mut found, mut inside) = (Vec::new(), false);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_start();
        let comment = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim);
        let Some(comment) = comment else {
            inside = false;
            continue;
        };
        let Some(language) = comment.strip_prefix("```") else { continue };
        let of_rust = ["", "rust", "should_panic", "no_run", "ignore", "compile_fail"];
        if !inside && of_rust.contains(&language.split(',').next().unwrap_or_default().trim()) {
            found.push(index + 1);
        }
        inside = !inside;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a workspace of one package with these files.
    fn found_in(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let write = |name: &str, text: &str| {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        };
        write("Cargo.toml", "[workspace]\nmembers = [\"a\"]\nexclude = [\"other\"]\nresolver = \"3\"\n");
        write("a/Cargo.toml", "[package]\nname = \"a\"\nedition = \"2024\"\n");
        write("a/src/lib.rs", "");
        files.iter().for_each(|(name, text)| write(name, text));
        let metadata = cargo_metadata::MetadataCommand::new().no_deps().current_dir(&root).exec().unwrap();
        findings(&Workspace::of(&metadata).unwrap()).unwrap()
    }

    #[test]
    fn what_nothing_would_run_is_found() {
        let needs_root = "#[test] #[ignore = \"needs root; 1 s\"] fn r() {}\n";
        let manifest = "[package]\nname = \"a\"\nedition = \"2024\"\n[[test]]\nname = \"t\"\n";
        let (with_macro, with_plain) = (
            format!("{needs_root}proptest! {{ #[test] fn a() {{}} }}"),
            format!("{needs_root}#[test] fn a() {{}}"),
        );
        let cases = [
            ("a/src/target/b.rs", "", "no module reaches"),
            ("other/src/lib.rs", "#[test] fn a() {}", "no member"),
            ("stray.rs", "#[tokio::test] async fn a() {}", "no member"),
            ("a/build.rs", "fn main() {}\n#[test] fn a() {}", "no program"),
            ("a/examples/e.rs", "fn main() {}\n#[test] fn a() {}", "no program"),
            ("a/benches/b.rs", "#[test] fn a() {}", "no program"),
            ("a/src/lib.rs", "#[cfg(any())]\nmod m { #[test] fn a() {} }", "left out of some builds"),
            ("a/src/lib.rs", "proptest! { #[test] #[ignore] fn a(x in 0..3) {} }", "leaves some out"),
            ("a/tests/t.rs", with_macro.as_str(), "say what they need"),
            ("a/tests/t.rs", with_plain.as_str(), "does not say"),
            ("a/src/lib.rs", "#[test] #[ignore = \"runs as a child of \"] fn a() {}", "no test of its suite"),
            ("a/src/lib.rs", "/// ```\n/// panic!();\n/// ```\npub fn f() {}", "rustdoc"),
        ];
        for (file, text, about) in cases {
            let found = found_in(&[(file, text)]);
            assert!(matches!(&found[..], [one] if one.starts_with(file) && one.contains(about)), "{found:?}");
        }
        let test = ("a/tests/t.rs", "#[test] fn a() {}");
        let without = format!("{manifest}harness = false\n");
        let without = found_in(&[("a/Cargo.toml", without.as_str()), test]);
        assert!(matches!(&without[..], [one] if one.contains("harness")), "{without:?}");
        let features = format!("{manifest}required-features = [\"x\"]\n[features]\nx = []\n");
        let required = found_in(&[("a/Cargo.toml", features.as_str()), test]);
        assert!(matches!(&required[..], [one] if one.contains("no program")), "{required:?}");
    }

    #[test]
    fn what_runs_is_not_found() {
        let text = "//! ```text\n//! a picture\n//! ```\n#[cfg(test)] mod m { #[test] fn a() {} }\n\
            proptest! { #[test] fn b() {} }";
        assert_eq!(found_in(&[("a/src/lib.rs", text), ("other/src/lib.rs", "")]), [""; 0]);
    }
}
