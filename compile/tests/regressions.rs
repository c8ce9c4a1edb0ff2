//! Replays, on the stable compiler, what the fuzzers start from and every input that once made one of
//! them stop: `fuzz/seeds` and `fuzz/regressions`.

#[path = "../../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "the fuzzers' own crate makes these public")]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

/// The files in the folder of a target; there may be none.
fn files(kind: &str, target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(kind).join(target);
    let mut files: Vec<_> =
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

#[test]
fn seeds_and_regressions_pass() {
    for (name, target) in targets::TARGETS {
        let seeds = files("seeds", name);
        assert!(!seeds.is_empty(), "there are no seeds for {name}");
        for file in seeds.into_iter().chain(files("regressions", name)) {
            // Shown when it panics.
            println!("{}", file.display());
            target(&fs::read(&file).expect("readable"));
        }
    }
}

#[test]
fn every_target_has_a_program() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for (name, _) in targets::TARGETS {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "fuzz/Cargo.toml lacks {name}"
        );
    }
    assert_eq!(manifest.matches("[[bin]]").count(), targets::TARGETS.len());
}
