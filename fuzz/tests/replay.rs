//! Replays the committed corpus of every target, whole, cut and mutated, so that what a fuzzer once found stays found.
#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it must be"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rand::{RngExt as _, SeedableRng, rngs::SmallRng};
use strait_fuzz::TARGETS;

/// Mutations of each seed: enough to touch every field of the largest seed a few times, and well under a second a target.
const MUTATIONS: u64 = 300;
/// Bytes changed at most in one mutation.
const EDITS: usize = 6;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus().join(target))
        .unwrap_or_else(|e| panic!("fuzz/corpus/{target}: {e}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn mutate(seed: &[u8], rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.random_range(1..=EDITS) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..4) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 => bytes.insert(at, rng.random()),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

#[test]
fn every_target_survives_its_corpus_and_mutations_of_it() {
    for target in TARGETS {
        let seeds = seeds(target.name);
        assert!(seeds.len() >= 2, "{} has hardly a corpus", target.name);
        for (number, (path, seed)) in seeds.iter().enumerate() {
            println!("{} {}", target.name, path.display());
            (target.run)(seed);
            (0..seed.len().min(512)).for_each(|cut| (target.run)(&seed[..cut]));
            for round in 0..MUTATIONS {
                let mut rng = SmallRng::seed_from_u64(number as u64 * MUTATIONS + round);
                (target.run)(&mutate(seed, &mut rng));
            }
        }
    }
}

#[test]
fn every_corpus_and_every_libfuzzer_binary_has_a_target_and_the_other_way_round() {
    let named: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let folders: BTreeSet<String> = fs::read_dir(corpus())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let binaries: BTreeSet<String> = fs::read_dir(corpus().join("../libfuzzer/fuzz_targets"))
        .unwrap()
        .map(|e| {
            e.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!((&folders, &binaries), (&named, &named));
}
