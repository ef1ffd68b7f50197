//! Models and recipes with impossible numbers are refused in one line, before anything is allocated by them.

use std::fs;
use std::path::Path;

use crate::common::{phantoms, random_model, run, stderr};
use ctseg_base::hash::file_sha256;

/// A change of `model.toml`: text, replacement and expected message.
type Change = (&'static str, &'static str, &'static str);

const CHANGES: [Change; 16] = [
    (
        "batch_size = 4",
        "batch_size = 4611686018427387904",
        "batch_size",
    ),
    (
        "spacing_mm = [5.0, 5.0, 6.0]",
        "spacing_mm = [1e-9, 1e-9, 1e-9]",
        "spacing_mm",
    ),
    (
        "spacing_mm = [5.0, 5.0, 6.0]",
        "spacing_mm = [nan, nan, nan]",
        "spacing_mm",
    ),
    (
        "spacing_mm = [5.0, 5.0, 6.0]",
        "spacing_mm = [-1.0, 1.0, 1.0]",
        "spacing_mm",
    ),
    (
        "patch_size = [192, 192]",
        "patch_size = [0, 0]",
        "patch_size",
    ),
    (
        "patch_size = [192, 192]",
        "patch_size = [1000000, 1000000]",
        "patch_size",
    ),
    (
        "widths = [4, 8]",
        "widths = [16384, 16384]",
        "values, but the recipe's network has",
    ),
    ("widths = [4, 8]", "widths = [4]", "network.widths"),
    ("folds = 2", "folds = 4611686018427387904", "folds must be"),
    (
        "\nname = \"refine",
        "\nsliding = { step = 0.0 }\nname = \"refine",
        "sliding.step",
    ),
    ("stage = 2", "stage = 1", "stage 1 needs"),
    ("fold = 0", "fold = 1", "stage2.safetensors"),
    (
        "epoch = 1\n",
        "epoch = 1\ninput_ranges = [[nan, 1.0]]\n",
        "input_ranges",
    ),
    (
        "[stage2.recipe.roi]",
        "[stage2.recipe.nnunet]\naxes = \"ras\"\nnormalisation = { kind = \"ct\", low_hu = nan, high_hu = 1.0, mean_hu = 0.0, sd_hu = 1.0 }\n\n[stage2.recipe.roi]",
        "nnunet.normalisation",
    ),
    ("1 = \"liver\"", "0 = \"liver\"", "structures"),
    ("1 = \"liver\"", "0300 = \"liver\"", "structures"),
];

/// Changes the model's manifest, and updates its checksum.
fn change_manifest(model: &Path, change: impl Fn(&str) -> String) {
    let manifest = model.join("model.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    let other = change(&text);
    assert_ne!(other, text);
    fs::write(&manifest, other).unwrap();
    let sums = fs::read_to_string(model.join("SHA256SUMS")).unwrap();
    let sum = file_sha256(&manifest).unwrap();
    let lines = sums.lines().map(|line| match line.ends_with("model.toml") {
        true => format!("{sum}  model.toml\n"),
        false => format!("{line}\n"),
    });
    fs::write(model.join("SHA256SUMS"), lines.collect::<String>()).unwrap();
}

#[test]
fn models_with_impossible_recipes_are_refused_when_they_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 1, 0);
    random_model(&here.join("model"), &[]);
    let kept = ["model.toml", "SHA256SUMS"].map(|name| {
        let path = here.join("model").join(name);
        (fs::read(&path).unwrap(), path)
    });
    for (from, to, expected) in CHANGES {
        for (bytes, path) in &kept {
            fs::write(path, bytes).unwrap();
        }
        change_manifest(&here.join("model"), |text| {
            // The last match: that of the second stage or of the whole model.
            let at = text
                .rfind(from)
                .unwrap_or_else(|| panic!("{from} in {text}"));
            [&text[..at], to, &text[at + from.len()..]].concat()
        });
        let arguments = ["predict", "data/images", "-o", "out", "--model", "model"];
        let log = stderr(&run(here, &arguments, 1));
        assert!(log.contains(expected), "{to}: {log}");
        assert!(log.contains("model/"), "{to}: {log}");
        assert_eq!(log.lines().count(), 1, "{to}: {log}");
        let entries = here.join("out").read_dir().into_iter().flatten();
        assert_eq!(entries.count(), 0, "{to}");
    }
}

#[test]
fn recipes_with_impossible_numbers_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = |set: &str, expected: &str, code: i32| {
        let arguments = [
            "fit", "--stage", "refine", "--data", "nowhere", "--set", set,
        ];
        let log = stderr(&run(folder.path(), &arguments, code));
        assert!(log.contains(expected), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    };
    recipe("folds=4611686018427387904", "folds must be 1 to 1000", 1);
    recipe(
        &format!("a{}=1", ".a".repeat(60_000)),
        "a key of 60001 parts",
        2,
    );
    let nine = "network={kind='resenc3d', widths=[4, 4, 4, 4, 4, 4, 4, 4, 4]}";
    let stage = [
        "fit", "--stage", "refine", "--data", "nowhere", "--set", nine,
    ];
    let log = stderr(&run(folder.path(), &stage, 1));
    assert!(
        log.contains("nowhere") && !log.contains("panicked"),
        "{log}"
    );
}
