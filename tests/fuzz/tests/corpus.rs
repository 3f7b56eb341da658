//! What fuzzing once found is replayed, and damaged a little.
#![expect(clippy::panic, reason = "a test ends where something is wrong")]

use std::{fs, path::Path};

use proptest::{collection::vec, prelude::*, sample::select};
use tombolo_fuzz::{TARGETS, Target};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let read = |file: std::io::Result<fs::DirEntry>| file.and_then(|file| fs::read(file.path()));
    files.map(|file| read(file).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))).collect()
}

fn inputs() -> impl Strategy<Value = (Target, Vec<u8>)> {
    let known =
        TARGETS.iter().flat_map(|(name, target)| corpus(name).into_iter().map(|bytes| (*target, bytes)));
    select(known.collect::<Vec<_>>())
}

#[test]
fn what_was_found_holds() {
    for (name, target) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() > 5, "the corpus of {name} has {} inputs", inputs.len());
        inputs.iter().for_each(|bytes| target(bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_was_found_holds_when_damaged(
        (target, mut bytes) in inputs(),
        flips in vec(any::<(usize, u8)>(), 0..4),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let len = bytes.len().max(1);
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at % len) { *byte = value; }
        }
        if cut { bytes.truncate(keep.index(len)); }
        target(&bytes);
    }
}
