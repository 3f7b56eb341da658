//! Golden tables: each file of this directory is a story in steps. A step begins with `## title`, then come changes
//! (see `input.rs`), then `----` and how the tables change (see `output.rs`). `UPDATE_GOLDEN=1 cargo test -p
//! tombolo-node-core --test golden` writes what comes out into the files; read the difference before committing it.
#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod input;
mod output;

use std::{collections::BTreeSet, fmt::Write, fs, path::Path};

use tombolo_node_core::state::{Change, State};

const SEPARATOR: &str = "----";

#[test]
fn stories_end_as_written() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut stories: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    stories.sort();
    assert!(!stories.is_empty());
    let mut wrong = String::new();
    for path in stories {
        let expected = fs::read_to_string(&path).unwrap();
        let found = play(&expected);
        if found == expected {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, found).unwrap();
        } else {
            writeln!(wrong, "{}:\n{}", path.display(), difference(&expected, &found)).unwrap();
        }
    }
    assert!(wrong.is_empty(), "tables differ from the golden ones (- expected, + found):\n{wrong}");
}

/// The story with its expected parts replaced by what really happens.
fn play(story: &str) -> String {
    let mut out = String::new();
    let (head, rest) = story.split_once("\n## ").expect("a step that begins with ##");
    out.push_str(head);
    let mut state: Option<State> = None;
    let mut shown = BTreeSet::new();
    for step in rest.split("\n## ") {
        let (input, _) = step.split_once(SEPARATOR).unwrap_or((step, ""));
        let (title, changes) = input.split_once('\n').unwrap_or((input, ""));
        input::play(changes, &mut state);
        let state = state.as_mut().expect("the first step says who the node is: own …");
        state.refresh();
        let now = output::lines(state);
        write!(out, "\n## {title}\n{}\n{SEPARATOR}\n", changes.trim_end()).unwrap();
        for gone in shown.difference(&now) {
            writeln!(out, "- {gone}").unwrap();
        }
        for new in now.difference(&shown) {
            writeln!(out, "+ {new}").unwrap();
        }
        check_restart(state);
        shown = now;
    }
    out
}

/// A node that restarts with the same maps and files and is told the same records ends with the same tables.
fn check_restart(state: &mut State) {
    let mut restarted =
        State::new(state.own().clone(), state.endpoints().clone(), state.selector_bits().clone());
    let (services, slots, backends) = (
        state.service().entries().clone(),
        state.slot().entries().clone(),
        state.backend().entries().clone(),
    );
    restarted.adopt_services(&services, &slots, &backends, 0);
    restarted.begin_sync();
    for record in input::all_records(state) {
        restarted.apply(Change::Upsert(record));
    }
    if state.may_prune() {
        restarted.complete_sync();
    }
    restarted.refresh();
    assert_eq!(output::lines(&mut restarted), output::lines(state), "after a restart");
}

fn difference(expected: &str, found: &str) -> String {
    let (expected_lines, found_lines): (BTreeSet<_>, BTreeSet<_>) =
        (expected.lines().collect(), found.lines().collect());
    let missing =
        expected.lines().filter(|line| !found_lines.contains(line)).map(|line| format!("  - {line}\n"));
    let extra =
        found.lines().filter(|line| !expected_lines.contains(line)).map(|line| format!("  + {line}\n"));
    missing.chain(extra).collect()
}
