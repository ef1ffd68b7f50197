//! `ctseg report`: the page shows all results and needs no network.

use std::path::{Path, PathBuf};

use crate::common::{phantoms, run, run_json, small_recipe, stderr};
use ctseg_core::run::folder::RunSettings;
use ctseg_image::nifti::{read_labels, write_labels};
use serde_json::{Value, json};

mod browser;

/// A structure name that would end a script element and start another.
const HOSTILE: &str = "</script><script>alert(1)</script>";

/// A file name that would be an HTML element.
const TAG: &str = "<i>&amp;'x";

/// Evaluates label maps of three phantoms, shifted by 1, 2 and 6 voxels, into `eval/`. The name of the last case and of
/// one structure contain HTML.
fn write_evaluation(folder: &Path) -> PathBuf {
    let at = |name: &str| folder.join(name);
    let descriptor = phantoms(&at("data"), 1, 3);
    for kind in ["images", "labels"] {
        let of = |name: &str| at(&format!("data/{kind}/{name}.nii.gz"));
        std::fs::rename(of("phantom_003"), of(TAG)).unwrap();
    }
    let text = std::fs::read_to_string(&descriptor).unwrap();
    let text = text.replace("phantom_003", TAG);
    let text = text.replace("stomach =", &format!("\"{HOSTILE}\" ="));
    std::fs::write(&descriptor, text).unwrap();
    std::fs::create_dir(at("pred")).unwrap();
    for (case, shift) in [("phantom_001", 1), ("phantom_002", 2), (TAG, 6)] {
        let (header, mut labels) = read_labels(&at(&format!("data/labels/{case}.nii.gz"))).unwrap();
        let x = labels.data.dim().2;
        for mut row in labels.data.rows_mut() {
            let before = row.to_owned();
            row.indexed_iter_mut()
                .for_each(|(at, label)| *label = before[(at + shift).min(x - 1)]);
        }
        let path = at(&format!("pred/{case}.nii.gz"));
        write_labels(&path, &labels, &header).unwrap();
        let found = labels.bounding_box(|label| label > 0).unwrap();
        let region = found.grown([3; 3], labels.grid.shape);
        let image = at(&format!("data/images/{case}.nii.gz"));
        let sidecar = json!({
            "input": image, "input_sha256": "", "model": "gone/model", "model_sha256": "ab12",
            "ctseg_version": "0.1.0", "device": "flex in f32", "shape": labels.grid.shape,
            "spacing_mm": labels.grid.spacing_mm(), "orientation": labels.grid.orientation().to_string(),
            "notes": ["a remark"], "volumes_ml": {}, "structures": {}, "seconds": 1.0, "peak_memory_mb": null,
            "cascade": {"roi": region, "roi_share": 0.5, "notes": [], "seconds": {}},
        });
        let text = sidecar.to_string();
        std::fs::write(at(&format!("pred/{case}.json")), text).unwrap();
    }
    std::fs::write(
        at("pred/failures.jsonl"),
        "{\"input\": \"lost.nii.gz\", \"reason\": \"was empty\"}\n",
    )
    .unwrap();
    run(
        folder,
        &["evaluate", "pred", "data/dataset.toml", "-o", "eval"],
        0,
    );
    at("eval")
}

fn report(folder: &Path, more: &[&str], code: i32) -> String {
    let known = [
        "report",
        "eval",
        "--predictions",
        "pred",
        "--reference",
        "data/dataset.toml",
    ];
    let output = run(folder, &[&known[..], more].concat(), code);
    stderr(&output)
}

#[test]
fn a_report_shows_its_cases_and_needs_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_evaluation(folder.path());
    report(
        folder.path(),
        &["-o", "out/report.html", "--title", "A & B"],
        0,
    );
    let page = std::fs::read_to_string(at("out/report.html")).unwrap();
    assert!(page.contains("default-src 'none'") && page.contains("<h1>A &amp; B</h1>"));
    assert!(
        !page.contains(HOSTILE) && !page.contains("<i>&amp;'x"),
        "names are not escaped"
    );
    for word in [
        "lost.nii.gz",
        "was empty",
        "phantom_002",
        "gone&#x2f;model",
        "ab12",
        "a remark",
        "flex in f32",
        "worst",
    ] {
        assert!(page.contains(word), "{word}");
    }
    assert!(!page.contains("http://") && !page.contains("https://"));
    // A second report is identical to the byte.
    report(folder.path(), &["-o", "again.html", "--title", "A & B"], 0);
    assert_eq!(page, std::fs::read_to_string(at("again.html")).unwrap());
    let pictures: Vec<_> = std::fs::read_dir(at("out/report_files")).unwrap().collect();
    assert_eq!(pictures.len(), 3);
}

#[test]
fn missing_images_are_reported_and_the_others_shown() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    write_evaluation(folder.path());
    std::fs::write(at("data/images/phantom_001.nii.gz"), b"broken").unwrap();
    let log = report(folder.path(), &["-o", "report.html"], 3);
    assert!(log.contains("phantom_001"), "{log}");
    let page = std::fs::read_to_string(at("report.html")).unwrap();
    assert!(page.contains("Not shown: ") && page.contains("view-0-image"));
    assert_eq!(
        page.matches("-image\">").count(),
        2,
        "the other images are missing"
    );
    // Without images the results are still shown.
    std::fs::remove_dir_all(at("pred")).unwrap();
    run(folder.path(), &["report", "eval", "-o", "figures.html"], 3);
    let page = std::fs::read_to_string(at("figures.html")).unwrap();
    assert!(page.contains("id=\"case-table\"") && !page.contains("id=\"viewer\""));
    for (arguments, code, problem) in [
        (vec!["report", "data"], 1, "is neither"),
        (vec!["report", "nowhere"], 1, "does not exist"),
        (
            vec!["report", "eval", "--cases", "nobody"],
            2,
            "is not a case",
        ),
        (
            vec!["report", "eval", "--cases", ""],
            2,
            "contains no case name",
        ),
        (
            vec!["report", "eval", "--images", "nowhere"],
            1,
            "does not exist",
        ),
    ] {
        let log = stderr(&run(folder.path(), &arguments, code));
        assert!(log.contains(problem), "{log}");
    }
}

#[test]
fn an_evaluation_with_file_paths_needs_no_options() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let evaluation = write_evaluation(folder.path());
    let path = evaluation.join("summary.json");
    let text = std::fs::read(&path).unwrap();
    let mut summary: Value = serde_json::from_slice(&text).unwrap();
    let of = |case: &str| {
        let file = |kind: &str| at(&format!("{kind}/{case}.nii.gz"));
        let (labels, images) = (file("data/labels"), file("data/images"));
        json!({"case": case, "prediction": file("pred"), "reference": labels, "image": images})
    };
    summary["compared"] = json!(["phantom_001", "phantom_002", TAG].map(of));
    std::fs::write(&path, summary.to_string()).unwrap();
    // Without sidecars, which also name the images.
    for case in ["phantom_001", "phantom_002", TAG] {
        std::fs::remove_file(at(&format!("pred/{case}.json"))).unwrap();
    }
    let report = run_json(folder.path(), &["report", "eval", "--json"], 0);
    assert_eq!(report["cases_in_pictures"], 3, "{report}");
    let page = std::fs::read_to_string(at("report.html")).unwrap();
    assert!(
        page.contains("was empty"),
        "failures beside the label maps are not shown"
    );
    assert!(page.contains("label maps without a sidecar"));
}

/// A run folder with six epochs of one network.
fn run_folder(folder: &Path) -> PathBuf {
    let path = folder.join("runs/20260101-000000-refine");
    std::fs::create_dir_all(&path).unwrap();
    let recipe = small_recipe("refine2_5d", &["spacing_mm=[5.0, 5.0, 6.0]"]);
    std::fs::write(path.join("recipe.toml"), recipe.to_toml().unwrap()).unwrap();
    let settings = RunSettings {
        dataset: folder.join("data/dataset.toml"),
        data_root: None,
        model: folder.join("model"),
        seed: 11,
        from: None,
        stage1_sha256: None,
        ctseg_version: "0.1.0".to_owned(),
        engine: "flex in f32".to_owned(),
        parent: None,
        reading: ctseg_core::dataset::Reading::default(),
    };
    // JSON values are valid TOML values here.
    let lines = serde_json::to_value(&settings).unwrap();
    let lines = lines.as_object().unwrap().iter();
    let text: String = lines
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| format!("{key} = {value}\n"))
        .collect();
    std::fs::write(path.join("run.toml"), text).unwrap();
    let mut metrics = String::new();
    for epoch in 1..=6 {
        let dice = 0.5 + 0.05 * f64::from(epoch);
        let line = json!({
            "network": "fold 0", "epoch": epoch, "seconds": 10 * epoch, "loss": 1.0 / f64::from(epoch),
            "learning_rate": 10f64.powi(-epoch), "validation_dice": dice,
            "validation_dice_per_structure": [dice, dice - 0.1, null, 0.5, 0.9], "validation_iou": 0.4,
            "validation_loss": 0.5, "ended": (epoch == 6).then_some("all_epochs_done"),
        });
        metrics += &format!("{line}\n");
    }
    std::fs::write(path.join("metrics.jsonl"), metrics).unwrap();
    path
}

#[test]
fn a_run_is_shown_with_its_curves_and_its_held_out_cases() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let evaluation = write_evaluation(folder.path());
    let path = run_folder(folder.path());
    let arguments = ["report", path.to_str().unwrap(), "-o", "run.html"];
    run(folder.path(), &arguments, 0);
    let page = std::fs::read_to_string(at("run.html")).unwrap();
    for word in [
        "Learning rate",
        "Validation Dice by structure",
        "diagnosis of fold 0",
        "[training.optimiser]",
        "1e-3",
    ] {
        assert!(page.contains(word), "{word}");
    }
    assert!(!page.contains("id=\"case-table\""));
    assert_eq!(std::fs::read_dir(at("run_files")).unwrap().count(), 2);
    // Its held-out predictions, with references from its training dataset.
    let held_out = path.join("out_of_fold");
    std::fs::rename(at("pred"), &held_out).unwrap();
    for file in ["metrics.csv", "summary.json"] {
        std::fs::copy(evaluation.join(file), held_out.join(file)).unwrap();
    }
    run(folder.path(), &arguments, 0);
    let page = std::fs::read_to_string(at("run.html")).unwrap();
    assert!(page.contains("id=\"case-table\"") && page.contains("view-2-image"));
    // A run and an evaluation in one report; the references are those of the run's dataset.
    let (run_path, held_out) = (path.to_str().unwrap(), held_out.to_str().unwrap());
    let both = [
        "report",
        run_path,
        "eval",
        "--predictions",
        held_out,
        "-o",
        "both.html",
    ];
    run(folder.path(), &both, 0);
    let page = std::fs::read_to_string(at("both.html")).unwrap();
    assert!(page.contains("Learning rate") && page.contains("view-2-image"));
}

#[test]
fn twenty_real_cases_stay_below_25_megabytes() {
    let Some(data) = std::env::var_os("CTSEG_TEST_DATA") else {
        println!("skipped: no real CT (CTSEG_TEST_DATA)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let data = Path::new(&data).join("headneck");
    for kind in ["images", "labels"] {
        std::fs::create_dir(at(kind)).unwrap();
        let mut files: Vec<PathBuf> = std::fs::read_dir(data.join(kind))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        for file in files.iter().take(20) {
            std::fs::copy(file, at(kind).join(file.file_name().unwrap())).unwrap();
        }
    }
    run(
        folder.path(),
        &["evaluate", "labels", "labels", "-o", "eval"],
        0,
    );
    let arguments = [
        "report",
        "eval",
        "--predictions",
        "labels",
        "--reference",
        "labels",
        "--images",
        "images",
        "--cases",
        "all",
        "--json",
    ];
    let summary = run_json(folder.path(), &arguments, 0);
    assert_eq!(summary["cases_in_pictures"], 20);
    let bytes = std::fs::metadata(at("report.html")).unwrap().len();
    assert_eq!(summary["bytes"], bytes);
    assert!((1_000_000..25_000_000).contains(&bytes), "{bytes}");
    // A smaller limit is met with coarser voxels.
    run(
        folder.path(),
        &[&arguments[..], &["--max-size", "3"]].concat(),
        0,
    );
    let bytes = std::fs::metadata(at("report.html")).unwrap().len();
    assert!(bytes < 3_000_000, "{bytes}");
}
