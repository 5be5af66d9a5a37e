//! The saved corpora of the fuzz targets, run as an ordinary test: what once was found stays found.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stillcast::fuzz::TARGETS;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

/// Small changes of an input, always the same ones: a cut at every length, and every byte at three other values
/// (of long inputs, at some two hundred places).
fn changed(input: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let step = 1 + input.len() / 200;
    let cuts = (0..input.len()).step_by(step).map(|length| input[..length].to_vec());
    let bytes = (0..input.len()).step_by(step).flat_map(|at| {
        [0, 0xFF, input[at] ^ 0x40].map(|value| {
            let mut other = input.to_vec();
            other[at] = value;
            other
        })
    });
    cuts.chain(bytes)
}

#[test]
fn no_parser_breaks_its_promise_on_the_corpora_or_near_them() {
    for (name, target) in TARGETS {
        let corpus = folder("corpus").join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display())) {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            // Names the input when the target panics.
            println!("{}", path.display());
            target(&input);
            changed(&input).for_each(|input| target(&input));
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no corpus");
    }
}

#[test]
fn every_target_has_a_fuzzer_and_every_fuzzer_a_target() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let fuzzers: BTreeSet<String> = fs::read_dir(folder("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(targets, fuzzers);
}
