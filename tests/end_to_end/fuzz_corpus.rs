//! The seeds and former findings of `fuzz/`: no reader panics on them.

#[path = "../../fuzz/src/readers.rs"]
mod readers;

use std::path::{Path, PathBuf};

use readers::models::{model, nnunet_model, torch_file};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

#[test]
fn seeds_are_read_without_a_panic() {
    for (target, reader) in readers::ALL {
        let seeds = corpus().join(target).read_dir().unwrap();
        let mut count = 0;
        for seed in seeds {
            let bytes = std::fs::read(seed.unwrap().path()).unwrap();
            // Whole, and truncated anywhere.
            for end in (0..=bytes.len()).rev().step_by(bytes.len() / 16 + 1) {
                reader(&bytes[..end]);
            }
            count += 1;
        }
        assert!(count > 0, "{target} has no seeds");
    }
}

/// The other files that a reader needs are valid; otherwise it would stop before it reads the seed.
#[test]
fn models_around_the_seeds_are_valid() {
    let seed = |name: &str| std::fs::read(corpus().join(name)).unwrap();
    for plans in ["plain", "residual", "older"] {
        nnunet_model("plans.json", &seed(&format!("plans_json/{plans}"))).unwrap();
    }
    torch_file(&corpus().join("zip/checkpoint")).unwrap();
    model(&seed("model_toml/one_stage"), None).unwrap();
    let two_stages = seed("model_toml/two_stages");
    model(&two_stages, Some(&seed("sums/whole"))).unwrap();
}

#[test]
fn every_reader_has_a_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for (target, _) in readers::ALL {
        let path = format!("fuzz_targets/{target}.rs");
        assert!(manifest.contains(&format!("path = \"{path}\"")), "{target}");
        let text = std::fs::read_to_string(folder.join(path)).unwrap();
        assert!(text.contains(&format!("readers::{target},")), "{text}");
    }
    let targets = folder.join("fuzz_targets").read_dir().unwrap().count();
    assert_eq!(targets, readers::ALL.len());
}
