//! Models of several parts through the binary, with networks whose answer is known.

use crate::common;

use std::fs;
use std::path::Path;

use crate::common::levels::{Level, boxes_in, labelled, manifest, publish_levels, rough, save};
use crate::common::{phantoms, run, stderr};
use ctseg_core::model::multi_part::{PartedManifest, PartedModel, When};
use ctseg_image::labels::postprocess::Step;
use ctseg_image::nifti::{read_label_names, read_labels, read_volume};
use ctseg_image::resample::{Interpolation, resample};
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};
use ctseg_image::statistics::totalsegmentator::StatisticsJson;
use serde_json::Value;

/// What all models see; `core` is the middle of a spleen, which the first part takes for spleen.
const LIVER: f32 = 200.0;
const SPLEEN: f32 = 400.0;
const CORE: f32 = 480.0;
const HEART: f32 = 700.0;
const BONE: f32 = 900.0;

const ORGANS: [Level; 4] = [
    (1, "liver", 200.0),
    (2, "spleen", 400.0),
    (3, "other", 700.0),
    (4, "more", 900.0),
];
const REST: [Level; 5] = [
    (1, "heart", 700.0),
    (2, "bone", 900.0),
    (3, "core", 480.0),
    (4, "other", 400.0),
    (5, "more", 200.0),
];
const ROUGH: [Level; 5] = [
    (7, "heart", 700.0),
    (8, "bone", 900.0),
    (9, "liver", 200.0),
    (10, "spleen", 400.0),
    (11, "core", 480.0),
];
const STRUCTURES: [(u16, &str); 5] = [
    (1, "liver"),
    (2, "spleen"),
    (3, "heart"),
    (300, "bone"),
    (5, "core"),
];
const TRUTH: [(f32, u16); 5] = [(LIVER, 1), (SPLEEN, 2), (CORE, 5), (HEART, 3), (BONE, 300)];

fn total(margin_mm: f64) -> PartedManifest {
    let own: Vec<(&str, [&str; 1])> = STRUCTURES
        .iter()
        .map(|(_, name)| (*name, [*name]))
        .collect();
    let own: Vec<(&str, &[&str])> = own.iter().map(|(name, by)| (*name, &by[..])).collect();
    manifest(
        &STRUCTURES,
        &[
            ("organs", &[(1, 1), (2, 2)]),
            ("rest", &[(1, 3), (2, 300), (3, 5)]),
        ],
        Some(rough(When::Chosen, margin_mm, &own)),
    )
}

/// A model of two parts and a rough one at `here/model`.
fn publish_total(here: &Path, margin_mm: f64) {
    publish_with(here, (&ROUGH, 4.0), &|manifest| {
        manifest.rough.as_mut().unwrap().margin_mm = margin_mm;
    })
    .unwrap();
}

/// The same with another rough model (its levels, its spacing), or another manifest.
fn publish_with(
    here: &Path,
    (levels, spacing_mm): (&[Level], f64),
    change: &dyn Fn(&mut PartedManifest),
) -> ctseg_base::Result<()> {
    PartedModel::publish(&here.join("model"), |folder| {
        publish_levels(&folder.join("organs"), &ORGANS, 4.0);
        publish_levels(&folder.join("rest"), &REST, 4.0);
        publish_levels(&folder.join("rough"), levels, spacing_mm);
        let mut manifest = total(20.0);
        change(&mut manifest);
        Ok(manifest)
    })
}

fn place(start: [usize; 3], end: [usize; 3]) -> VoxelBox {
    VoxelBox { start, end }
}

/// All structures, on a grid of 4 mm.
fn scan() -> Volume {
    boxes_in(
        Grid::with_spacing([40, 36, 44], [4.0; 3]),
        &[
            (place([4, 4, 4], [14, 12, 12]), LIVER),
            (place([24, 6, 6], [32, 14, 16]), SPLEEN),
            (place([26, 8, 8], [30, 12, 14]), CORE),
            (place([16, 20, 22], [24, 28, 30]), HEART),
            (place([8, 26, 34], [20, 30, 40]), BONE),
        ],
    )
}

fn predict(here: &Path, more: &[&str], code: i32) -> String {
    let arguments = ["predict", "scans", "-o", "out", "--json"];
    let output = run(here, &[&arguments[..], more].concat(), code);
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
}

/// How many cases were written and kept.
fn counts(here: &Path, more: &[&str]) -> (usize, usize) {
    let arguments = ["predict", "scans", "-o", "out", "--json"];
    let output = run(here, &[&arguments[..], more].concat(), 0);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let count = |what: &str| summary[what].as_array().unwrap().len();
    (count("written"), count("kept"))
}

fn found(here: &Path, case: &str) -> LabelMap {
    read_labels(&here.join(format!("out/{case}.nii.gz")))
        .unwrap()
        .1
}

fn sidecar(here: &Path, case: &str) -> Value {
    serde_json::from_slice(&fs::read(here.join(format!("out/{case}.json"))).unwrap()).unwrap()
}

fn differing(a: &LabelMap, b: &LabelMap) -> usize {
    assert_eq!(a.data.dim(), b.data.dim());
    a.data.iter().zip(&b.data).filter(|(a, b)| a != b).count()
}

#[test]
fn all_parts_are_merged_and_the_later_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    assert_eq!(counts(here, &[]), (1, 0));
    assert_eq!(
        differing(&found(here, "case"), &labelled(&scan(), &TRUTH)),
        0
    );
    let said = sidecar(here, "case");
    assert_eq!(
        said["cascade"]["parts"],
        serde_json::json!(["organs", "rest"])
    );
    assert_eq!(said["cascade"]["roi"], Value::Null);
    assert_eq!(said["structures"]["bone"], 300);
    let model = PartedModel::open(&here.join("model")).unwrap();
    assert_eq!(said["model_sha256"], model.sha256());
    let names = read_label_names(&here.join("out/case.nii.gz")).unwrap();
    let expected = STRUCTURES.map(|(label, name)| (label, name.to_owned()));
    assert_eq!(names, expected.into_iter().collect());
    // Kept when run again; made again of another model.
    assert_eq!(counts(here, &[]), (0, 1));
    publish_with(here, (&ROUGH, 4.0), &|manifest| manifest.parts.reverse()).unwrap();
    assert_eq!(counts(here, &[]), (1, 0));
    let spleen = [(LIVER, 1), (SPLEEN, 2), (CORE, 2), (HEART, 3), (BONE, 300)];
    assert_eq!(
        differing(&found(here, "case"), &labelled(&scan(), &spleen)),
        0
    );
}

#[test]
fn chosen_structures_run_only_the_parts_and_the_region_that_they_need() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    // A part that is not needed is not even looked at.
    fs::rename(here.join("model/rest"), here.join("rest")).unwrap();
    assert_eq!(counts(here, &["--structures", "liver"]), (1, 0));
    assert_eq!(
        differing(&found(here, "case"), &labelled(&scan(), &[(LIVER, 1)])),
        0
    );
    let said = sidecar(here, "case");
    assert_eq!(said["cascade"]["parts"], serde_json::json!(["organs"]));
    assert_eq!(said["structures"], serde_json::json!({"liver": 1}));
    assert_eq!(said["only_chosen"], true);
    // The liver is (4, 4, 4) to (14, 12, 12), on even borders of the rough grid; 20 mm are 5 voxels; 0 is the end.
    let roi = serde_json::json!({"start": [0, 0, 0], "end": [19, 17, 17]});
    assert_eq!(said["cascade"]["roi"], roi);
    let share = said["cascade"]["roi_share"].as_f64().unwrap();
    assert!((share - (19 * 17 * 17) as f64 / (40 * 36 * 44) as f64).abs() < 1e-12);
    assert!(said["cascade"]["seconds"]["rough"].as_f64().is_some());
    let refused = predict(here, &[], 1);
    assert!(refused.contains("model/rest"), "{refused}");
    fs::rename(here.join("rest"), here.join("model/rest")).unwrap();
    // Done for one choice is not done for another.
    assert_eq!(counts(here, &["--structures", "liver"]), (0, 1));
    assert_eq!(counts(here, &["--structures", "heart,core"]), (1, 0));
    let expected = labelled(&scan(), &[(HEART, 3), (CORE, 5)]);
    assert_eq!(differing(&found(here, "case"), &expected), 0);
    assert_eq!(
        sidecar(here, "case")["cascade"]["parts"],
        serde_json::json!(["rest"])
    );
    // All of them by name are not all of them without a choice: the rough model has a say.
    fs::write(
        here.join("all.txt"),
        "# all\nliver\nspleen\n\nheart\nbone\ncore\n",
    )
    .unwrap();
    assert_eq!(counts(here, &["--structures", "@all.txt"]), (1, 0));
    assert!(!sidecar(here, "case")["cascade"]["roi"].is_null());
    assert_eq!(counts(here, &[]), (1, 0));
    assert_eq!(
        differing(&found(here, "case"), &labelled(&scan(), &TRUTH)),
        0
    );
}

#[test]
fn nothing_found_roughly_is_the_whole_volume_and_never_silent() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // A rough model that knows no voxel of liver when it sees one.
    let blind =
        ROUGH.map(|(label, name, hu)| (label, name, if name == "liver" { 1e6 } else { hu }));
    publish_with(here, (&blind, 4.0), &|_| {}).unwrap();
    let grid = Grid::with_spacing([40, 36, 44], [4.0; 3]);
    let volume = boxes_in(
        grid,
        &[
            (place([28, 28, 28], [31, 31, 31]), LIVER),
            (place([4, 4, 4], [12, 12, 12]), HEART),
        ],
    );
    save(&here.join("scans/case.nii.gz"), &volume);
    let said = predict(here, &["--structures", "bone"], 0);
    assert!(
        said.contains("found nothing of bone; the whole volume"),
        "{said}"
    );
    let said = predict(here, &["--structures", "liver"], 0);
    assert!(
        said.contains("found nothing of liver; the whole volume"),
        "{said}"
    );
    assert_eq!(
        differing(&found(here, "case"), &labelled(&volume, &[(LIVER, 1)])),
        0
    );
    assert_eq!(sidecar(here, "case")["cascade"]["roi_share"], 1.0);
    let said = predict(here, &["--structures", "bone,heart"], 0);
    assert!(
        said.contains("found nothing of bone; looked for where"),
        "{said}"
    );
    let notes = sidecar(here, "case")["notes"].to_string();
    assert!(notes.contains("nothing of bone"), "{notes}");
    assert_eq!(
        differing(&found(here, "case"), &labelled(&volume, &[(HEART, 3)])),
        0
    );
}

#[test]
fn a_coarse_rough_model_finds_the_region_in_the_volumes_own_voxels() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_with(here, (&ROUGH, 12.0), &|_| {}).unwrap();
    // Spacings and a shape that no coarse voxel fits.
    let grid = Grid::with_spacing([41, 50, 29], [4.3, 3.1, 5.7]);
    let liver = place([11, 30, 9], [25, 44, 17]);
    save(
        &here.join("scans/case.nii.gz"),
        &boxes_in(grid, &[(liver, LIVER)]),
    );
    assert_eq!(counts(here, &["--structures", "liver"]), (1, 0));
    let map = found(here, "case");
    let roi = sidecar(here, "case")["cascade"]["roi"].clone();
    let roi: VoxelBox = serde_json::from_value(roi).unwrap();
    for (axis, spacing_mm) in grid.spacing_mm().into_iter().enumerate() {
        let limit = grid.shape[axis] as f64;
        // 20 mm of margin, and half a coarse voxel to either side.
        let margin = 20.0 / spacing_mm;
        let start = (liver.start[axis] as f64 - margin).max(0.0);
        let end = (liver.end[axis] as f64 + margin).min(limit);
        for (edge, expected) in [(roi.start[axis], start), (roi.end[axis], end)] {
            let off = (edge as f64 - expected).abs() * spacing_mm;
            assert!(
                off <= 6.0 + spacing_mm,
                "axis {axis}: {roi:?}, {off} mm off"
            );
        }
    }
    let truth = boxes_in(grid, &[(liver, LIVER)]);
    let wrong = differing(&map, &labelled(&truth, &[(LIVER, 1)]));
    assert!(
        wrong * 4 < liver.voxels(),
        "{wrong} of {} voxels",
        liver.voxels()
    );
}

#[test]
fn volumes_in_every_orientation_are_cropped_and_merged_alike() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 9.0);
    let orientations = ["RAS", "LPS", "PIR", "SLA", "IAL", "ASR"];
    for orientation in orientations {
        let grid = scan().grid.reoriented(orientation.parse().unwrap());
        let turned = resample(&scan(), &grid, Interpolation::Nearest).unwrap();
        save(&here.join(format!("scans/{orientation}.nii")), &turned);
    }
    assert_eq!(
        counts(here, &["--structures", "heart,bone"]),
        (orientations.len(), 0)
    );
    for orientation in orientations {
        let turned = read_volume(&here.join(format!("scans/{orientation}.nii")))
            .unwrap()
            .volume;
        let map = read_labels(&here.join(format!("out/{orientation}.nii")))
            .unwrap()
            .1;
        let expected = labelled(&turned, &[(HEART, 3), (BONE, 300)]);
        assert_eq!(differing(&map, &expected), 0, "{orientation}");
        assert!(map.grid.same_as(&turned.grid, 1e-4));
        let share = sidecar(here, orientation)["cascade"]["roi_share"].clone();
        assert_eq!(share, sidecar(here, "RAS")["cascade"]["roi_share"]);
        assert!(share.as_f64().unwrap() < 0.3, "{share}");
    }
}

#[test]
fn a_task_that_is_always_cropped_sees_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let path = here.join("model");
    // Vessels (of the HU of bone) are looked for around the heart, as a rough model of two parts finds it.
    PartedModel::publish(&path, |folder| {
        publish_levels(
            &folder.join("vessels"),
            &[(1, "vessels", 900.0), (2, "rest", 600.0)],
            4.0,
        );
        PartedModel::publish(&folder.join("rough"), |inner| {
            publish_levels(&inner.join("organs"), &ORGANS, 4.0);
            publish_levels(&inner.join("rest"), &REST, 4.0);
            let mut rough = total(0.0);
            rough.rough = None;
            Ok(rough)
        })?;
        let by = rough(When::Always, 9.0, &[("*", &["heart"])]);
        Ok(manifest(
            &[(1, "vessels")],
            &[("vessels", &[(1, 1)])],
            Some(by),
        ))
    })
    .unwrap();
    let grid = Grid::with_spacing([40, 36, 44], [4.0; 3]);
    let near = place([18, 20, 28], [20, 24, 34]);
    let far = place([2, 2, 2], [6, 6, 6]);
    let heart = place([16, 20, 20], [24, 28, 28]);
    let volume = boxes_in(grid, &[(heart, HEART), (near, BONE), (far, BONE)]);
    save(&here.join("scans/case.nii.gz"), &volume);
    assert_eq!(counts(here, &[]), (1, 0));
    let map = found(here, "case");
    // 2 voxels (9 mm) around the heart, which reaches to z = 28.
    assert_eq!(
        map.bounding_box(|label| label == 1).unwrap(),
        place([18, 20, 28], [20, 24, 30])
    );
    let said = run(here, &["inspect", "model"], 0);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains("finds heart for every volume"), "{said}");
    // Without a heart in sight the whole volume counts.
    save(
        &here.join("scans/case.nii.gz"),
        &boxes_in(grid, &[(far, BONE)]),
    );
    assert_eq!(counts(here, &["--overwrite"]), (1, 0));
    assert_eq!(
        found(here, "case").bounding_box(|label| label == 1),
        Some(far)
    );
}

#[test]
fn a_bad_case_costs_no_other_and_memory_keeps_to_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    let grid = Grid::with_spacing([60, 60, 50], [4.0; 3]);
    let large = boxes_in(
        grid,
        &[
            (place([10, 10, 10], [30, 36, 38]), SPLEEN),
            (place([35, 42, 42], [55, 56, 48]), HEART),
        ],
    );
    save(&here.join("scans/large.nii.gz"), &large);
    save(&here.join("scans/small.nii.gz"), &scan());
    fs::write(here.join("scans/broken.nii.gz"), "no image").unwrap();
    predict(here, &[], 3);
    let before = found(here, "large");
    assert!(before.data.iter().any(|label| *label == 2));
    let failures = fs::read_to_string(here.join("out/failures.jsonl")).unwrap();
    assert_eq!(failures.lines().count(), 1, "{failures}");
    // Nothing is begun that cannot be brought to its end; with a little more than the least that is named, it is.
    let limited = |limit: &str, more: &[&str], code| {
        let limit = ["--overwrite", "--threads", "2", "--max-ram", limit];
        predict(here, &[&limit[..], more].concat(), code)
    };
    for more in [&[][..], &["--structures", "spleen,heart"]] {
        let refused = limited("30M", more, 1);
        let least = refused
            .split("needs ")
            .nth(1)
            .unwrap()
            .split('M')
            .next()
            .unwrap();
        let least: u64 = least.parse().unwrap();
        limited(&format!("{}M", least + 4), more, 3);
        let peak = sidecar(here, "large")["peak_memory_mb"].as_f64().unwrap();
        assert!(
            peak <= (least + 4) as f64,
            "{peak} MB where {} MB are allowed",
            least + 4
        );
        assert_eq!(differing(&found(here, "large"), &before), 0);
    }
}

#[test]
fn label_maps_are_cleaned_up_as_parts_and_whole_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let largest = Step::LargestComponent {
        connectivity: Default::default(),
    };
    publish_with(here, (&ROUGH, 4.0), &|manifest| {
        let steps = vec![largest];
        manifest.postprocessing.insert("liver".to_owned(), steps);
    })
    .unwrap();
    let grid = Grid::with_spacing([40, 36, 44], [4.0; 3]);
    let main = (place([4, 4, 4], [14, 12, 12]), LIVER);
    let stray = (place([30, 30, 30], [33, 33, 33]), LIVER);
    save(
        &here.join("scans/case.nii.gz"),
        &boxes_in(grid, &[main, stray]),
    );
    let truth = |boxes: &[(VoxelBox, f32)]| labelled(&boxes_in(grid, boxes), &[(LIVER, 1)]);
    assert_eq!(counts(here, &[]), (1, 0));
    assert_eq!(differing(&found(here, "case"), &truth(&[main])), 0);
    let steps = &sidecar(here, "case")["cascade"]["postprocessing"];
    assert_eq!(steps["liver"][0]["step"], "largest_component");
    assert_eq!(counts(here, &["--no-postprocess"]), (1, 0));
    assert_eq!(differing(&found(here, "case"), &truth(&[main, stray])), 0);
}

#[test]
fn masks_statistics_and_a_second_run_are_as_of_any_model() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    let all = ["--statistics", "--split", "--preview"];
    assert_eq!(counts(here, &all), (1, 0));
    assert_eq!(counts(here, &all), (0, 1));
    assert!(here.join("out/case/bone.nii.gz").exists());
    let table = here.join("out/case_statistics.json");
    let expected = |how: &str, structures: &[(u16, &str)]| {
        let image = read_volume(&here.join("scans/case.nii.gz")).unwrap();
        let mm3 = image.header.voxel_mm3();
        let how = how.parse().unwrap();
        let (map, volume) = (found(here, "case"), image.volume);
        StatisticsJson::measured(structures, &map, &volume, mm3, how)
            .text()
            .unwrap()
    };
    let mut by_label = STRUCTURES;
    by_label.sort();
    assert_eq!(
        fs::read_to_string(&table).unwrap(),
        expected("mean", &by_label)
    );
    let read: Value = serde_json::from_slice(&fs::read(&table).unwrap()).unwrap();
    assert_eq!(
        read["heart"],
        serde_json::json!({"volume": 512.0 * 64.0, "intensity": 700.0})
    );
    // Another way of taking the figures is another file.
    let other = ["--statistics=median,normalized", "--structures", "heart"];
    assert_eq!(counts(here, &other), (1, 0));
    assert_eq!(counts(here, &other), (0, 1));
    let heart = [(3, "heart")];
    assert_eq!(
        fs::read_to_string(&table).unwrap(),
        expected("median,normalized", &heart)
    );
    assert_eq!(counts(here, &["--structures", "heart"]), (1, 0));
    assert!(!table.exists(), "what is left over goes");
    let said = predict(here, &["--statistics=mode"], 2);
    assert!(said.contains("'mode'") && said.contains("median"), "{said}");
    // One case's table must not take the place of another one's record.
    fs::copy(
        here.join("scans/case.nii.gz"),
        here.join("scans/case_statistics.nii.gz"),
    )
    .unwrap();
    let said = predict(here, &["--statistics"], 1);
    assert!(
        said.contains("case_statistics.nii.gz") && said.contains("two folders"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_meant_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    publish_levels(&here.join("single"), &ORGANS, 4.0);
    for (more, code, expected) in [
        (
            &["--structures", "splen"][..],
            2,
            "expected one or more of spleen",
        ),
        (&["--structures", "@none.txt"], 1, "none.txt"),
        (&["--structures", " "], 2, "names none"),
        (&["--save-probabilities"], 2, "a part's folder"),
        (&["--save-entropy"], 2, "a part's folder"),
        (&["--attention"], 2, "a part's folder"),
        (&["--split", "--overlap"], 2, "a part's folder"),
        (
            &["--model", "single", "--model", "model"],
            1,
            "cannot be averaged",
        ),
        (
            &["--model", "single", "--structures", "lever"],
            2,
            "expected one or more of liver",
        ),
    ] {
        let said = predict(here, more, code);
        assert!(said.contains(expected), "{more:?}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{more:?}: {said}");
    }
    phantoms(&here.join("data"), 2, 0);
    let calibrate = ["calibrate", "--model", "model", "--data", "data"];
    let said = stderr(&run(here, &calibrate, 1));
    assert!(said.contains("model of several parts"), "{said}");
    // A part of its own is a model as any other.
    assert_eq!(counts(here, &["--model", "model/rest"]), (1, 0));
}

#[test]
fn changed_manifests_and_parts_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    let refused = |expected: &[&str]| {
        let said = predict(here, &[], 1);
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
    };
    let weights = here.join("model/rest/stage2.safetensors");
    let whole = fs::read(&weights).unwrap();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&weights, changed).unwrap();
    refused(&["rest/stage2.safetensors", "SHA-256"]);
    fs::write(&weights, whole).unwrap();
    // Another model in a part's place, whole as it is.
    fs::rename(here.join("model/rest"), here.join("kept")).unwrap();
    publish_levels(&here.join("model/rest"), &ORGANS, 4.0);
    refused(&["model/rest", "another model"]);
    fs::remove_dir_all(here.join("model/rest")).unwrap();
    fs::rename(here.join("kept"), here.join("model/rest")).unwrap();
    let manifest = here.join("model/parts.toml");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(
        &manifest,
        text.replace("margin_mm = 20.0", "margin_mm = 2.0"),
    )
    .unwrap();
    refused(&["parts.toml", "damaged"]);
    fs::write(&manifest, text).unwrap();
    predict(here, &[], 0);
}

#[test]
fn models_that_do_not_fit_together_are_not_put_together() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let publish = |change: &dyn Fn(&mut PartedManifest)| publish_with(here, (&ROUGH, 4.0), change);
    type Change = dyn Fn(&mut PartedManifest);
    let changes: [(&Change, &str); 9] = [
        (
            &|m| {
                m.parts[0].labels.insert("1".to_owned(), 99);
            },
            "99",
        ),
        (
            &|m| {
                m.parts[0].labels.remove("1");
            },
            "no part gives structure 'liver'",
        ),
        (
            &|m| {
                m.parts[0].labels.insert("77".to_owned(), 1);
            },
            "77",
        ),
        (
            &|m| {
                m.parts[0].labels.insert("0".to_owned(), 1);
            },
            "'0'",
        ),
        (&|m| m.parts[1].folder = "../rest".to_owned(), "../rest"),
        (&|m| m.parts[1].folder = "organs".to_owned(), "organs"),
        (
            &|m| {
                m.structures.insert("9".to_owned(), "liver".to_owned());
            },
            "two label values",
        ),
        (
            &|m| m.rough.as_mut().unwrap().margin_mm = f64::NAN,
            "margin_mm",
        ),
        (
            &|m| {
                let rough = m.rough.as_mut().unwrap();
                rough
                    .stands_for
                    .insert("liver".to_owned(), vec!["lever".to_owned()]);
            },
            "'lever'",
        ),
    ];
    for (change, expected) in changes {
        let said = publish(change).unwrap_err().to_string();
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(
            !here.join("model").exists() && here.read_dir().unwrap().count() == 0,
            "{said}"
        );
    }
    // What is no such model is not replaced.
    fs::create_dir(here.join("model")).unwrap();
    fs::write(here.join("model/thesis.txt"), "years of work").unwrap();
    let said = publish(&|_| {}).unwrap_err().to_string();
    assert!(said.contains("thesis.txt"), "{said}");
    fs::remove_file(here.join("model/thesis.txt")).unwrap();
    publish(&|_| {}).unwrap();
    publish(&|manifest| manifest.name = "again".to_owned()).unwrap();
    let model = PartedModel::open(&here.join("model")).unwrap();
    assert_eq!(model.manifest.name, "again");
    assert_eq!(here.read_dir().unwrap().count(), 1);
}
