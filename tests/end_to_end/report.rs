//! `ctseg report`: the page holds what was measured, opens in a browser without a complaint, and can be worked with.

use crate::common;

use std::path::{Path, PathBuf};

use crate::common::browser::{Page, chromium};
use crate::common::{phantoms, run, small_recipe, stderr};
use ctseg_core::run::folder::RunSettings;
use ctseg_image::nifti::{read_labels, read_volume, write_labels};
use serde_json::{Value, json};

/// A name that would end a script and begin another.
const FOREIGN: &str = "</script><script>alert(1)</script>";

/// A file's name that would be an element.
const TAG: &str = "<i>&amp;'x";

/// Three phantoms with label maps that are off by 1, 2 and 6 voxels, evaluated into `eval/`. The last one's name and one
/// structure's are foreign.
fn evaluated(folder: &Path) -> PathBuf {
    let at = |name: &str| folder.join(name);
    let descriptor = phantoms(&at("data"), 1, 3);
    for kind in ["images", "labels"] {
        let of = |name: &str| at(&format!("data/{kind}/{name}.nii.gz"));
        std::fs::rename(of("phantom_003"), of(TAG)).unwrap();
    }
    let text = std::fs::read_to_string(&descriptor).unwrap();
    let text = text.replace("phantom_003", TAG);
    let text = text.replace("stomach =", &format!("\"{FOREIGN}\" ="));
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
fn a_report_holds_its_case_and_needs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    evaluated(folder.path());
    report(
        folder.path(),
        &["-o", "out/report.html", "--title", "A & B"],
        0,
    );
    let page = std::fs::read_to_string(at("out/report.html")).unwrap();
    assert!(page.contains("default-src 'none'") && page.contains("<h1>A &amp; B</h1>"));
    assert!(
        !page.contains(FOREIGN) && !page.contains("<i>&amp;'x"),
        "foreign names are escaped"
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
    // The same again, to the byte.
    report(folder.path(), &["-o", "again.html", "--title", "A & B"], 0);
    assert_eq!(page, std::fs::read_to_string(at("again.html")).unwrap());
    let pictures: Vec<_> = std::fs::read_dir(at("out/report_files")).unwrap().collect();
    assert_eq!(pictures.len(), 3);
}

#[test]
fn images_that_are_gone_are_said_and_cost_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    evaluated(folder.path());
    std::fs::write(at("data/images/phantom_001.nii.gz"), b"broken").unwrap();
    let said = report(folder.path(), &["-o", "report.html"], 3);
    assert!(said.contains("phantom_001"), "{said}");
    let page = std::fs::read_to_string(at("report.html")).unwrap();
    assert!(page.contains("Not shown: ") && page.contains("view-0-image"));
    assert_eq!(page.matches("-image\">").count(), 2, "the others are there");
    // Without any image there are the figures still.
    std::fs::remove_dir_all(at("pred")).unwrap();
    run(folder.path(), &["report", "eval", "-o", "figures.html"], 3);
    let page = std::fs::read_to_string(at("figures.html")).unwrap();
    assert!(page.contains("id=\"case-table\"") && !page.contains("id=\"viewer\""));
    for (arguments, code, problem) in [
        (vec!["report", "data"], 1, "is neither"),
        (vec!["report", "nowhere"], 1, "does not exist"),
        (vec!["report", "eval", "--cases", "nobody"], 2, "is no case"),
        (vec!["report", "eval", "--cases", ""], 2, "names no case"),
        (
            vec!["report", "eval", "--images", "nowhere"],
            1,
            "does not exist",
        ),
    ] {
        let said = stderr(&run(folder.path(), &arguments, code));
        assert!(said.contains(problem), "{said}");
    }
}

#[test]
fn an_evaluation_that_names_its_files_needs_no_hints() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let evaluation = evaluated(folder.path());
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
    // Nor the sidecars' word on the images.
    for case in ["phantom_001", "phantom_002", TAG] {
        std::fs::remove_file(at(&format!("pred/{case}.json"))).unwrap();
    }
    let output = run(folder.path(), &["report", "eval", "--json"], 0);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["cases_in_pictures"], 3, "{said}");
    let page = std::fs::read_to_string(at("report.html")).unwrap();
    assert!(
        page.contains("was empty"),
        "failures lie beside the label maps"
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
        ctseg_version: "0.1.0".to_owned(),
        engine: "flex in f32".to_owned(),
        parent: None,
    };
    // Through JSON: the tests know no TOML.
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
    let evaluation = evaluated(folder.path());
    let path = run_folder(folder.path());
    let arguments = ["report", path.to_str().unwrap(), "-o", "run.html"];
    run(folder.path(), &arguments, 0);
    let page = std::fs::read_to_string(at("run.html")).unwrap();
    for word in [
        "Learning rate",
        "Validation Dice by structure",
        "verdict on fold 0",
        "[training.optimiser]",
        "1e-3",
    ] {
        assert!(page.contains(word), "{word}");
    }
    assert!(!page.contains("id=\"case-table\""));
    assert_eq!(std::fs::read_dir(at("run_files")).unwrap().count(), 2);
    // Its held-out predictions, with references from the dataset that it was trained on.
    let held_out = path.join("out_of_fold");
    std::fs::rename(at("pred"), &held_out).unwrap();
    for file in ["metrics.csv", "summary.json"] {
        std::fs::copy(evaluation.join(file), held_out.join(file)).unwrap();
    }
    run(folder.path(), &arguments, 0);
    let page = std::fs::read_to_string(at("run.html")).unwrap();
    assert!(page.contains("id=\"case-table\"") && page.contains("view-2-image"));
    // Runs beside an evaluation; what that was compared with is of the dataset that they were trained on.
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
        println!("left out: no real CT (CTSEG_TEST_DATA)");
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
    let output = run(folder.path(), &arguments, 0);
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["cases_in_pictures"], 20);
    let bytes = std::fs::metadata(at("report.html")).unwrap().len();
    assert_eq!(said["bytes"], bytes);
    assert!((1_000_000..25_000_000).contains(&bytes), "{bytes}");
    // Less room is kept to, by coarser voxels.
    run(
        folder.path(),
        &[&arguments[..], &["--max-size", "3"]].concat(),
        0,
    );
    let bytes = std::fs::metadata(at("report.html")).unwrap().len();
    assert!(bytes < 3_000_000, "{bytes}");
}

/// A number that stands for what is on the large canvas.
const PIXELS: &str = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
    const c = document.querySelector('#slice'), copy = document.createElement('canvas');
    [copy.width, copy.height] = [c.width, c.height];
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(c, 0, 0);
    const d = context.getImageData(0, 0, c.width, c.height).data;
    let hash = 7; for (const value of d) hash = (hash * 31 + value) | 0; done(hash); })))";

/// Pixels in the colour of stage 1's region.
const REGION: &str = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
    const c = document.querySelector('#slice'), copy = document.createElement('canvas');
    [copy.width, copy.height] = [c.width, c.height];
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(c, 0, 0);
    const d = context.getImageData(0, 0, c.width, c.height).data;
    let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] > 245 && Math.abs(d[i + 1] - 211) < 9 && Math.abs(d[i + 2] - 77) < 25;
    done(n); })))";

fn attribute(page: &mut Page, selector: &str, name: &str) -> String {
    let value = page.value(&format!(
        "document.querySelector('{selector}').getAttribute('{name}')"
    ));
    value.as_str().unwrap_or_default().to_owned()
}

fn now(page: &mut Page) -> i64 {
    attribute(page, "#slice", "aria-valuenow").parse().unwrap()
}

/// The page of [`evaluated`] in a browser; none where there is none.
fn opened(folder: &Path, width: u32) -> Option<Page> {
    let Some(chromium) = chromium() else {
        println!("left out: no Chromium (CTSEG_TEST_CHROMIUM, or chromium in PATH)");
        return None;
    };
    evaluated(folder);
    let path = run_folder(folder);
    report(folder, &[path.to_str().unwrap()], 0);
    let mut page = Page::open(&chromium, width);
    page.load(&folder.join("report.html"));
    page.until("document.querySelector('#viewer').dataset.drawn > 0");
    Some(page)
}

fn assert_quiet(page: &mut Page, folder: &Path) {
    assert_eq!(page.complaints(), [""; 0]);
    let own = format!("file://{}", folder.join("report.html").display());
    for address in page.requests() {
        let is_own = address == own || address.starts_with("data:") || address.starts_with("blob:");
        assert!(is_own, "the page asked for {address}");
    }
}

#[test]
fn the_viewer_scrolls_and_shows_the_voxels_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = opened(folder.path(), 1280) else {
        return;
    };
    let page = &mut page;
    let first = page.value(PIXELS);
    let changed = |page: &mut Page, from: &Value, what: &str| {
        let to = page.value(PIXELS);
        assert_ne!(&to, from, "{what} changes nothing");
        to
    };
    let start = now(page);
    // Keyboard.
    page.value("document.querySelector('#slice').focus()");
    page.key("ArrowUp");
    let pixels = changed(page, &first, "ArrowUp");
    assert_eq!(now(page), start + 1);
    page.key("ArrowDown");
    assert_eq!(page.value(PIXELS), first, "back at the same slice");
    page.key("PageDown");
    changed(page, &first, "PageDown");
    assert_eq!(now(page), start - 10);
    page.key("m");
    assert_eq!(page.value(PIXELS), first);
    // Wheel and slider.
    page.wheel("#slice", 120);
    page.until(&format!(
        "document.querySelector('#slice').getAttribute('aria-valuenow') < {start}"
    ));
    let pixels = changed(page, &pixels, "the wheel");
    page.value("{ const s = document.querySelector('#scroll'); s.value = 20; s.dispatchEvent(new Event('input')); }");
    changed(page, &pixels, "the slider");
    assert_eq!(now(page), 20);
    page.key("m");
    // Window, overlay, opacity, region.
    let mut pixels = page.value(PIXELS);
    for (selector, what) in [
        ("[data-window=\"1800,400\"]", "bone"),
        ("[data-window=\"1500,-600\"]", "lung"),
        ("[data-window=\"80,40\"]", "brain"),
        ("[data-mode=image]", "the image"),
        ("[data-mode=reference]", "the reference"),
        ("[data-mode=prediction]", "the prediction"),
        ("[data-mode=differences]", "the differences"),
        ("#none", "hiding all structures"),
        ("#all", "showing all structures"),
    ] {
        page.click(selector);
        pixels = changed(page, &pixels, what);
    }
    page.value("{ const s = document.querySelector('#opacity'); s.value = 90; s.dispatchEvent(new Event('input')); }");
    changed(page, &pixels, "opacity");
    page.click("[data-mode=image]");
    assert!(
        page.value(REGION).as_i64().unwrap() > 50,
        "stage 1's region is drawn"
    );
    page.click("#roi");
    assert_eq!(page.value(REGION), 0);
    // Planes.
    page.value("document.querySelector('#slice').focus()");
    for (key, name) in [("2", "coronal"), ("3", "sagittal"), ("1", "axial")] {
        let before = page.value(PIXELS);
        page.key(key);
        changed(page, &before, name);
        assert!(attribute(page, "#slice", "aria-valuetext").starts_with(name));
    }
    // Another case.
    let before = page.value(PIXELS);
    page.click(".case-choice[data-view='2']");
    page.until(&format!("{PIXELS}.then(hash => hash !== {before})"));
    assert_quiet(page, folder.path());
}

/// Of a case: voxels of each structure in reference and prediction, differing voxels, mean number and mean place along
/// x, y and z of each structure's voxels in the reference.
const MEASURED: &str = "(async () => {
    const data = JSON.parse(document.getElementById('report-data').textContent);
    const { planes, image, reference, prediction } = await Voxels.load(VIEW, data.views[VIEW].planes);
    const [nx, ny] = planes.shape, n = data.table.structures.length + 1;
    const made = () => new Array(n).fill(0), [r, p, hu] = [made(), made(), made()], places = [made(), made(), made()];
    let different = 0;
    reference.forEach((a, i) => {
        r[a]++; p[prediction[i]]++; different += a !== prediction[i];
        hu[a] += Painter.hounsfield(data.knots, image[i]);
        [i % nx, Math.floor(i / nx) % ny, Math.floor(i / nx / ny)].forEach((at, axis) => { places[axis][a] += at; });
    });
    return { r, p, different, hu: hu.map((sum, a) => sum / r[a]), shape: planes.shape,
             places: places.map(sums => sums.map((sum, a) => sum / r[a])) };
})()";

#[test]
fn the_browser_unpacks_every_label_and_nearly_every_hounsfield_unit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = opened(folder.path(), 1280) else {
        return;
    };
    let at = |name: &str| folder.path().join(name);
    // Shown in this order: worst, median, best.
    for (view, case) in [(0, TAG), (1, "phantom_002"), (2, "phantom_001")] {
        let name = page.value(&format!(
            "document.querySelector('.case-choice[data-view=\"{view}\"] b').textContent"
        ));
        assert_eq!(name, case);
        let found = page.value(&MEASURED.replace("VIEW", &view.to_string()));
        let (_, reference) = read_labels(&at(&format!("data/labels/{case}.nii.gz"))).unwrap();
        let (_, prediction) = read_labels(&at(&format!("pred/{case}.nii.gz"))).unwrap();
        let volume = read_volume(&at(&format!("data/images/{case}.nii.gz")))
            .unwrap()
            .volume;
        let different = reference
            .data
            .iter()
            .zip(&prediction.data)
            .filter(|(a, b)| a != b)
            .count();
        assert_eq!(found["different"], different);
        for structure in 1..=5u16 {
            let slot = usize::from(structure);
            let count = |map: &ctseg_image::space::LabelMap| {
                map.data.iter().filter(|l| **l == structure).count()
            };
            assert_eq!(found["r"][slot], count(&reference), "{case}: {structure}");
            assert_eq!(found["p"][slot], count(&prediction), "{case}: {structure}");
            let inside = reference
                .data
                .iter()
                .zip(&volume.data)
                .filter(|(l, _)| **l == structure);
            let mean = inside.map(|(_, hu)| f64::from(*hu)).sum::<f64>() / count(&reference) as f64;
            let shown = found["hu"][slot].as_f64().unwrap();
            assert!(
                (shown - mean).abs() < 2.5,
                "{case}: {structure}: {shown} HU instead of {mean}"
            );
        }
        // The liver is on the patient's right, shown on the left; the spleen on the other side; of the kidneys the right
        // one too.
        let place = |axis: usize, slot: usize| found["places"][axis][slot].as_f64().unwrap();
        assert!(
            place(0, 1) < place(0, 2) && place(0, 4) < place(0, 3),
            "{found}"
        );
        // The stomach lies further to the front than the kidneys, and further up.
        assert!(
            place(1, 5) < place(1, 3) && place(2, 5) > place(2, 3),
            "{found}"
        );
    }
    assert_quiet(&mut page, folder.path());
}

#[test]
fn cases_are_sorted_by_any_column_and_narrowed_to_a_structure() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = opened(folder.path(), 1280) else {
        return;
    };
    let page = &mut page;
    let names = |page: &mut Page| {
        page.value(
            "[...document.querySelectorAll('#case-table tbody th')].map(th => th.textContent)",
        )
    };
    page.click("#case-table [data-column='0']");
    assert_eq!(
        names(page),
        json!([TAG, "phantom_002", "phantom_001"]),
        "the lowest Dice first"
    );
    assert_eq!(
        page.value("document.querySelector('[data-column=\"0\"]').parentElement.ariaSort"),
        "ascending"
    );
    page.click("#case-table [data-column='0']");
    assert_eq!(names(page), json!(["phantom_001", "phantom_002", TAG]));
    page.click("#case-table [data-column='-1']");
    assert_eq!(names(page)[1], "phantom_001");
    let cell = "document.querySelector('#case-table tbody tr[data-case=\"0\"] td').textContent";
    let mean = page.value(cell);
    page.value("{ const s = document.querySelector('#structure'); s.value = '1'; s.dispatchEvent(new Event('change')); }");
    let spleen = page.value(cell);
    assert_ne!(mean, spleen);
    let table = std::fs::read_to_string(folder.path().join("eval/metrics.csv")).unwrap();
    let row = table
        .lines()
        .find(|line| line.contains(",spleen,"))
        .unwrap();
    let dice: f64 = row
        .rsplit(",spleen,")
        .next()
        .unwrap()
        .split(',')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(spleen, format!("{dice:.3}"), "{row}");
    assert_eq!(
        page.value(
            "document.querySelectorAll('#case-table tr[data-case] td:nth-of-type(1).worst').length"
        ),
        1
    );
    page.value("{ const f = document.querySelector('#find'); f.value = '002'; f.dispatchEvent(new Event('input')); }");
    assert_eq!(
        page.value(
            "[...document.querySelectorAll('#case-table tbody tr')].filter(r => !r.hidden).length"
        ),
        1
    );
    // Box plots by metric.
    page.value("{ const s = document.querySelector('#box-metric'); s.value = 'recall'; s.dispatchEvent(new Event('change')); }");
    let shown = "[...document.querySelectorAll('.boxes')].filter(b => !b.hidden).map(b => b.dataset.metric)";
    assert_eq!(page.value(shown), json!(["recall"]));
    assert_quiet(page, folder.path());
}

#[test]
fn narrow_screens_and_both_themes_fit() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = opened(folder.path(), 1280) else {
        return;
    };
    let page = &mut page;
    // Beyond the page, less its scroll bar.
    let wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    // For people who look at them.
    let pictures = std::env::var_os("CTSEG_TEST_SCREENSHOTS").map(PathBuf::from);
    for width in [1280, 700, 400, 320] {
        page.resize(width);
        page.value(PIXELS);
        assert_eq!(
            page.value(wider),
            0,
            "something is wider than {width} pixels"
        );
        let slice = page.value("document.querySelector('#slice').width");
        assert!(slice.as_i64().unwrap() > i64::from(width) / 3, "{slice}");
        if let Some(folder) = &pictures {
            page.screenshot(&folder.join(format!("report-{width}.png")));
        }
    }
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = page.value(ground);
    page.click("#theme");
    assert_ne!(page.value(ground), light);
    page.click("#theme");
    assert_eq!(page.value(ground), light);
    let feature = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    page.call("Emulation.setEmulatedMedia", feature);
    page.value("{ delete document.documentElement.dataset.theme; }");
    assert_ne!(page.value(ground), light, "as the system is set");
    // What has the keyboard's attention is seen.
    page.value("document.querySelector('#opacity').focus()");
    page.key("Tab");
    let ring = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(page.value(ring), "solid");
    assert_quiet(page, folder.path());
}
