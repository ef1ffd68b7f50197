//! `ctseg plan`: fingerprints match NumPy; recipes load, fit into memory and train.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{phantoms, run, run_json, stderr};
use ctseg_base::progress::Silent;
use ctseg_core::dataset::fingerprint::{CaseStats, Fingerprint, Intensities};
use ctseg_core::dataset::{Dataset, Structure};
use ctseg_core::recipe::Recipe;
use ctseg_engine::precision::Precision;
use ctseg_train::plan::{Budget, NAMES, PlannedRecipe, Topology, plan};
use serde::Deserialize;
use serde_json::Value;

mod numpy;

use numpy::assert_matches_numpy;

fn gib(bytes: f64) -> Budget {
    Budget {
        bytes: (bytes * f64::from(1 << 30)) as u64,
        on_gpu: false,
        precision: Precision::F32,
    }
}

#[derive(Deserialize)]
struct Golden {
    spacing_mm: Vec<f64>,
    patch: Vec<usize>,
    strides: Vec<Vec<usize>>,
    kernels: Vec<Vec<usize>>,
    padded: Vec<usize>,
    multiple: Vec<usize>,
}

/// scripts/golden/make_plan.py
#[test]
fn strides_and_kernels_match_nnunet() {
    let golden: Vec<Golden> =
        serde_json::from_str(include_str!("../../golden/plan/topology.json")).unwrap();
    assert!(golden.len() > 60);
    for case in golden {
        let found = Topology::of(&case.spacing_mm, &case.patch, 99);
        let expected = Topology {
            strides: case.strides,
            kernels: case.kernels,
            patch: case.padded,
            multiple: case.multiple,
        };
        assert_eq!(found, expected, "{:?} on {:?}", case.patch, case.spacing_mm);
    }
}

/// The fingerprint of a made-up dataset with one kind of scan.
fn fingerprint(spacing: [f64; 3], shape: [usize; 3], foreground_mm: [f64; 3]) -> Fingerprint {
    let extent: [f64; 3] = std::array::from_fn(|axis| spacing[axis] * shape[axis] as f64);
    let case = |index: usize| CaseStats {
        case: format!("c{index}"),
        shape,
        // Some are finer along z.
        spacing_mm: [
            spacing[0],
            spacing[1],
            if index == 0 {
                0.5 * spacing[2]
            } else {
                spacing[2]
            },
        ],
        foreground_mm: Some(foreground_mm),
        volumes_ml: BTreeMap::new(),
    };
    Fingerprint {
        dataset: "made up".to_owned(),
        cases: (0..11).map(case).collect(),
        unreadable: Vec::new(),
        not_hu: Vec::new(),
        foreground_hu: Some(Intensities {
            voxels: 1000,
            mean: 60.0,
            sd: 150.0,
            min: -900.0,
            max: 2000.0,
            median: 42.0,
            percentile_00_5: -123.0,
            percentile_99_5: 987.0,
        }),
        median_spacing_mm: spacing,
        median_extent_mm: extent,
        median_foreground_mm: foreground_mm,
        large_foreground_mm: foreground_mm.map(|mm| 1.1 * mm),
        median_foreground_share: 0.2,
        structures: BTreeMap::new(),
    }
}

fn structures(names: &[&str]) -> Vec<Structure> {
    let named = (1..).zip(names);
    named
        .map(|(value, name)| Structure {
            value,
            name: (*name).to_owned(),
        })
        .collect()
}

fn of<'a>(plans: &'a [PlannedRecipe], name: &str) -> &'a PlannedRecipe {
    plans
        .iter()
        .find(|planned| planned.recipe.name == name)
        .unwrap()
}

#[test]
fn thick_slices_give_the_tenth_percentile_and_an_anisotropic_network() {
    let thick = fingerprint([0.8, 0.8, 5.0], [512, 512, 90], [250.0, 200.0, 300.0]);
    let plans = plan(&thick, &structures(&["liver"]), gib(16.0)).unwrap();
    // The 10th percentile of ten cases of 5 mm and one of 2.5 (NumPy: 5.0).
    assert_eq!(of(&plans, "refine").recipe.spacing_mm, [0.8, 0.8, 5.0]);
    let text = &of(&plans, "refine").text;
    assert!(text.contains("more than three times"), "{text}");
    assert!(
        text.contains("kernels = [[1, 3, 3], [1, 3, 3], ["),
        "{text}"
    );
    assert_eq!(of(&plans, "refine2_5d").recipe.network.neighbours(), 2);
    // Stage 1 is no finer than the data, and a median slice has at most 128 × 128 voxels.
    assert_eq!(of(&plans, "coarse").recipe.spacing_mm, [4.0, 4.0, 5.0]);
    let even = fingerprint([1.0, 1.0, 1.0], [560, 560, 400], [250.0, 200.0, 300.0]);
    let plans = plan(&even, &structures(&["liver"]), gib(16.0)).unwrap();
    assert_eq!(of(&plans, "coarse").recipe.spacing_mm, [4.5, 4.5, 4.5]);
    assert!(!of(&plans, "refine").text.contains("kernels"));
}

#[test]
fn less_memory_gives_smaller_patches_and_estimates() {
    let data = fingerprint([0.9, 0.9, 1.5], [512, 512, 300], [250.0, 200.0, 300.0]);
    let names = structures(&["liver", "spleen"]);
    let mut before: Option<Vec<usize>> = None;
    for bytes in [24.0, 12.0, 8.0, 4.0] {
        let plans = plan(&data, &names, gib(bytes)).unwrap();
        assert_eq!(
            plans
                .iter()
                .map(|p| p.recipe.name.as_str())
                .collect::<Vec<_>>(),
            NAMES
        );
        let sizes: Vec<usize> = plans
            .iter()
            .map(|p| {
                p.recipe
                    .training
                    .patch_size
                    .sides()
                    .iter()
                    .product::<usize>()
                    * p.recipe.training.batch_size
            })
            .collect();
        for planned in &plans {
            assert!(planned.fits, "{} in {bytes} GiB", planned.recipe.name);
            assert!(planned.estimate.on_host() <= gib(bytes).bytes);
        }
        if let Some(before) = before {
            assert!(
                sizes.iter().zip(&before).all(|(now, then)| now <= then),
                "{sizes:?} after {before:?}"
            );
        }
        before = Some(sizes);
    }
    // GPU memory only holds the network.
    let gpu = Budget {
        on_gpu: true,
        ..gib(4.0)
    };
    let larger = of(&plan(&data, &names, gpu).unwrap(), "refine").clone();
    let smaller = of(&plan(&data, &names, gib(4.0)).unwrap(), "refine").clone();
    assert!(larger.estimate.network > smaller.estimate.network);
    let nothing = plan(&data, &names, gib(0.05)).unwrap();
    assert!(
        nothing.iter().all(|planned| !planned.fits),
        "reported instead of failing"
    );
}

#[test]
fn left_and_right_structures_decide_the_flip_axes() {
    let data = fingerprint([1.0, 1.0, 2.0], [256, 256, 100], [100.0, 100.0, 100.0]);
    let text = |names: &[&str]| {
        of(
            &plan(&data, &structures(names), gib(8.0)).unwrap(),
            "refine",
        )
        .text
        .clone()
    };
    let both = text(&["Eye_R", "eye_l", "liver"]);
    assert!(both.contains(r#"flip_axes = ["x"]"#), "{both}");
    assert!(
        both.contains(r#"mirror_pairs = [["Eye_R", "eye_l"]]"#),
        "{both}"
    );
    let one = text(&["Eye_R", "liver"]);
    assert!(
        one.contains("flip_axes = []") && one.contains(r#"there is "Eye_R" but no "eye_l""#),
        "{one}"
    );
    assert!(text(&["liver"]).contains(r#"flip_axes = ["x"]"#));
    // 1110 HU are wide: soft tissue around the median gets a separate window.
    assert!(
        both.contains("windows_hu = [[-120.0, 990.0], [-160.0, 240.0]]"),
        "{both}"
    );
}

/// Plans a dataset through the binary; returns its JSON output.
fn planned(folder: &Path, data: &[&str], more: &[&str]) -> Value {
    let arguments = [&["plan", "-o", "plan", "--json"], data, more].concat();
    run_json(folder, &arguments, 0)
}

/// Trains each planned stage for one short epoch, at a coarser spacing than planned.
fn trains(folder: &Path, data: &[&str], stages: &[&str]) {
    for stage in stages {
        let file = format!("plan/{stage}.toml");
        let mut arguments = vec!["fit", "--stage", &file, "--epochs", "1", "--data"];
        arguments.extend(data);
        arguments.extend([
            "--set",
            "training.patches_per_epoch=2",
            "--set",
            "training.batch_size=2",
        ]);
        arguments.extend(["--set", "folds=2", "--set", "spacing_mm=[20.0, 20.0, 20.0]"]);
        arguments.extend([
            "--set",
            "training.early_stopping.patience=1",
            "--no-out-of-fold",
        ]);
        run(folder, &arguments, 0);
    }
}

#[test]
fn phantoms_are_planned_and_trained_as_planned() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 4, 1);
    let data = [descriptor.to_str().unwrap()];
    assert_matches_numpy(&Dataset::open(&descriptor).unwrap());
    let value = planned(folder.path(), &data, &["--memory", "2G"]);
    for (index, name) in NAMES.iter().enumerate() {
        let path = folder.path().join(format!("plan/{name}.toml"));
        let recipe = Recipe::named(path.to_str().unwrap(), &[]).unwrap();
        assert_eq!(
            value["recipes"][index]["recipe"],
            serde_json::to_value(&recipe).unwrap()
        );
        let bytes = value["recipes"][index]["estimated_bytes"].as_u64().unwrap();
        assert!(bytes <= 2 << 30, "{name}: {bytes}");
    }
    let figures = std::fs::read_to_string(folder.path().join("plan/fingerprint.json")).unwrap();
    let figures: Value = serde_json::from_str(&figures).unwrap();
    assert_eq!(figures, value["fingerprint"]);
    trains(folder.path(), &data, &NAMES);
    // Existing plans are not overwritten.
    let again = ["plan", data[0], "-o", "plan"];
    let log = stderr(&run(folder.path(), &again, 1));
    assert!(
        log.contains("coarse.toml") && log.contains("--overwrite"),
        "{log}"
    );
    run(folder.path(), &[&again[..], &["--overwrite"]].concat(), 0);
}

#[test]
fn unreadable_cases_are_listed_and_do_not_prevent_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let descriptor = phantoms(&folder.path().join("data"), 3, 0);
    let dataset = Dataset::open(&descriptor).unwrap();
    std::fs::write(&dataset.cases[1].image, b"nothing").unwrap();
    let arguments = ["plan", descriptor.to_str().unwrap(), "-o", "plan"];
    let output = run(folder.path(), &arguments, 3);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("2 cases read, 1 unreadable") && text.contains(&dataset.cases[1].id),
        "{text}"
    );
    assert!(folder.path().join("plan/refine2_5d.toml").exists());
    let wrong = [&arguments[..], &["--memory", "lots"]].concat();
    run(folder.path(), &wrong, 2);
}

#[test]
fn the_head_and_neck_dataset_is_planned_from_its_files() {
    let Some(root) = std::env::var_os("CTSEG_TEST_DATA") else {
        println!("skipped: CTSEG_TEST_DATA is not set");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/headneck.toml");
    let text = std::fs::read_to_string(shipped).unwrap();
    // Four of the cases, none of which is a test case.
    let text = text
        .replace("images/*.nii.gz", "images/kbp_0*2.nii.gz")
        .replace("labels/{case}.nii.gz", "labels/kbp_0{case}2.nii.gz");
    let without_tests = |line: &&str| !line.starts_with("test = ");
    let lines: Vec<&str> = text.lines().filter(without_tests).collect();
    let descriptor = folder.path().join("headneck.toml");
    std::fs::write(&descriptor, lines.join("\n")).unwrap();
    let dataset = Dataset::open_in(&descriptor, Some(Path::new(&root))).unwrap();
    assert_eq!(dataset.cases.len(), 4);
    assert_matches_numpy(&dataset);
    let data = [
        descriptor.to_str().unwrap(),
        "--data-root",
        root.to_str().unwrap(),
    ];
    let value = planned(folder.path(), &data, &["--memory", "6G"]);
    for recipe in value["recipes"].as_array().unwrap() {
        assert!(
            recipe["fits"].as_bool().unwrap()
                && recipe["estimated_bytes"].as_u64().unwrap() <= 6 << 30
        );
    }
    let text = std::fs::read_to_string(folder.path().join("plan/refine.toml")).unwrap();
    assert!(
        text.contains(r#"[["parotid_right", "parotid_left"]]"#),
        "{text}"
    );
    trains(folder.path(), &data, &["coarse"]);
}
