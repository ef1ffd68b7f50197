//! Multi-part models through the binary, with networks whose output is known.

use std::fs;
use std::path::Path;

use crate::common::levels::{Level, boxes_in, labelled, manifest, publish_levels, rough, save};
use crate::common::runs::written_and_kept;
use crate::common::{phantoms, run, stderr};
use ctseg_core::model::multi_part::{MultiPartManifest, MultiPartModel, When};
use ctseg_image::labels::postprocess::Step;
use ctseg_image::nifti::{read_label_names, read_labels, read_volume};
use ctseg_image::resample::{Interpolation, resample};
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};
use ctseg_image::statistics::totalsegmentator::StatisticsJson;
use serde_json::Value;

mod refusals;
mod regions;

/// HU of the structures; `core` is the centre of a spleen, which the first part labels as spleen.
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

fn total(margin_mm: f64) -> MultiPartManifest {
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

/// The same with another rough model (its levels and spacing), or another manifest.
fn publish_with(
    here: &Path,
    (levels, spacing_mm): (&[Level], f64),
    change: &dyn Fn(&mut MultiPartManifest),
) -> ctseg_base::Result<()> {
    MultiPartModel::publish(&here.join("model"), |folder| {
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

/// Numbers of cases written and kept.
fn counts(here: &Path, more: &[&str]) -> (usize, usize) {
    written_and_kept(here, &[&["scans", "-o", "out"], more].concat())
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
fn all_parts_are_merged_and_later_parts_win() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    publish_total(here, 20.0);
    save(&here.join("scans/case.nii.gz"), &scan());
    assert_eq!(counts(here, &[]), (1, 0));
    assert_eq!(
        differing(&found(here, "case"), &labelled(&scan(), &TRUTH)),
        0
    );
    let sidecar = sidecar(here, "case");
    assert_eq!(
        sidecar["cascade"]["parts"],
        serde_json::json!(["organs", "rest"])
    );
    assert_eq!(sidecar["cascade"]["roi"], Value::Null);
    assert_eq!(sidecar["structures"]["bone"], 300);
    let model = MultiPartModel::open(&here.join("model")).unwrap();
    assert_eq!(sidecar["model_sha256"], model.sha256());
    let names = read_label_names(&here.join("out/case.nii.gz")).unwrap();
    let expected = STRUCTURES.map(|(label, name)| (label, name.to_owned()));
    assert_eq!(names, expected.into_iter().collect());
    // Kept when run again; predicted again with another model.
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
fn a_bad_case_does_not_affect_others_and_the_memory_limit_is_kept() {
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
    // A case that cannot finish is not started; with slightly more than the reported minimum it succeeds.
    let limited = |limit: &str, more: &[&str], code| {
        let limit = ["--overwrite", "--threads", "2", "--max-ram", limit];
        predict(here, &[&limit[..], more].concat(), code)
    };
    for more in [&[][..], &["--structures", "spleen,heart"]] {
        let refused = limited("30M", more, 1);
        let least = refused
            .split("large.nii.gz: needs at least ")
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
fn postprocessing_of_parts_and_of_the_model_is_applied() {
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
fn masks_statistics_and_second_runs_work_as_with_any_model() {
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
    // Other statistics options give another file.
    let other = ["--statistics=median,normalized", "--structures", "heart"];
    assert_eq!(counts(here, &other), (1, 0));
    assert_eq!(counts(here, &other), (0, 1));
    let heart = [(3, "heart")];
    assert_eq!(
        fs::read_to_string(&table).unwrap(),
        expected("median,normalized", &heart)
    );
    assert_eq!(counts(here, &["--structures", "heart"]), (1, 0));
    assert!(!table.exists(), "unrequested files are removed");
    let log = predict(here, &["--statistics=mode"], 2);
    assert!(log.contains("'mode'") && log.contains("median"), "{log}");
    // One case's table must not overwrite another case's sidecar.
    fs::copy(
        here.join("scans/case.nii.gz"),
        here.join("scans/case_statistics.nii.gz"),
    )
    .unwrap();
    let log = predict(here, &["--statistics"], 1);
    assert!(
        log.contains("case_statistics.nii.gz") && log.contains("separate folders"),
        "{log}"
    );
}
