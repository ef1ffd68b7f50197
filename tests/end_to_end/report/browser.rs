//! The report in a browser: correct content, and working controls.

use super::*;

use crate::common::browser::{Page, chromium};
use ctseg_image::nifti::read_volume;

/// A hash of the pixels of the large canvas.
const PIXELS: &str = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
    const c = document.querySelector('#slice'), copy = document.createElement('canvas');
    [copy.width, copy.height] = [c.width, c.height];
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(c, 0, 0);
    const d = context.getImageData(0, 0, c.width, c.height).data;
    let hash = 7; for (const value of d) hash = (hash * 31 + value) | 0; done(hash); })))";

/// The number of pixels in the colour of stage 1's region.
const REGION: &str = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
    const c = document.querySelector('#slice'), copy = document.createElement('canvas');
    [copy.width, copy.height] = [c.width, c.height];
    const context = copy.getContext('2d', { willReadFrequently: true });
    context.drawImage(c, 0, 0);
    const d = context.getImageData(0, 0, c.width, c.height).data;
    let n = 0; for (let i = 0; i < d.length; i += 4) n += d[i] > 245 && Math.abs(d[i + 1] - 211) < 9 && Math.abs(d[i + 2] - 77) < 25;
    done(n); })))";

fn attribute(page: &mut Page, selector: &str, name: &str) -> String {
    let value = page.evaluate(&format!(
        "document.querySelector('{selector}').getAttribute('{name}')"
    ));
    value.as_str().unwrap_or_default().to_owned()
}

fn current_slice(page: &mut Page) -> i64 {
    attribute(page, "#slice", "aria-valuenow").parse().unwrap()
}

/// The report of [`write_evaluation`] in a browser; `None` without Chromium.
fn open_report(folder: &Path, width: u32) -> Option<Page> {
    let Some(chromium) = chromium() else {
        println!("skipped: no Chromium (CTSEG_TEST_CHROMIUM, or chromium in PATH)");
        return None;
    };
    write_evaluation(folder);
    let path = run_folder(folder);
    report(folder, &[path.to_str().unwrap()], 0);
    let mut page = Page::open(&chromium, width);
    page.load(&folder.join("report.html"));
    page.wait_until("document.querySelector('#viewer').dataset.drawn > 0");
    Some(page)
}

fn assert_no_problems(page: &mut Page, folder: &Path) {
    assert_eq!(page.problems(), [""; 0]);
    let own = format!("file://{}", folder.join("report.html").display());
    for address in page.requests() {
        let is_own = address == own || address.starts_with("data:") || address.starts_with("blob:");
        assert!(is_own, "the page requested {address}");
    }
}

#[test]
fn the_viewer_scrolls_and_shows_the_voxels_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = open_report(folder.path(), 1280) else {
        return;
    };
    let page = &mut page;
    assert_scrolls(page);
    // Window, overlay, opacity, region.
    let mut pixels = page.evaluate(PIXELS);
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
        pixels = assert_changed(page, &pixels, what);
    }
    page.evaluate("{ const s = document.querySelector('#opacity'); s.value = 90; s.dispatchEvent(new Event('input')); }");
    assert_changed(page, &pixels, "opacity");
    page.click("[data-mode=image]");
    assert!(
        page.evaluate(REGION).as_i64().unwrap() > 50,
        "stage 1's region is drawn"
    );
    page.click("#roi");
    assert_eq!(page.evaluate(REGION), 0);
    // Planes.
    page.evaluate("document.querySelector('#slice').focus()");
    for (key, name) in [("2", "coronal"), ("3", "sagittal"), ("1", "axial")] {
        let before = page.evaluate(PIXELS);
        page.press(key);
        assert_changed(page, &before, name);
        assert!(attribute(page, "#slice", "aria-valuetext").starts_with(name));
    }
    // Another case.
    let before = page.evaluate(PIXELS);
    page.click(".case-choice[data-view='2']");
    page.wait_until(&format!("{PIXELS}.then(hash => hash !== {before})"));
    assert_no_problems(page, folder.path());
}

/// The hash of the large canvas; fails if it is still `from`.
fn assert_changed(page: &mut Page, from: &Value, what: &str) -> Value {
    let to = page.evaluate(PIXELS);
    assert_ne!(&to, from, "{what} changed nothing");
    to
}

/// Fails unless slices change by keyboard, wheel and slider.
fn assert_scrolls(page: &mut Page) {
    let first = page.evaluate(PIXELS);
    let start = current_slice(page);
    // Keyboard.
    page.evaluate("document.querySelector('#slice').focus()");
    page.press("ArrowUp");
    let pixels = assert_changed(page, &first, "ArrowUp");
    assert_eq!(current_slice(page), start + 1);
    page.press("ArrowDown");
    assert_eq!(page.evaluate(PIXELS), first, "back at the same slice");
    page.press("PageDown");
    assert_changed(page, &first, "PageDown");
    assert_eq!(current_slice(page), start - 10);
    page.press("m");
    assert_eq!(page.evaluate(PIXELS), first);
    // Wheel and slider.
    page.wheel("#slice", 120);
    page.wait_until(&format!(
        "document.querySelector('#slice').getAttribute('aria-valuenow') < {start}"
    ));
    let pixels = assert_changed(page, &pixels, "the wheel");
    page.evaluate("{ const s = document.querySelector('#scroll'); s.value = 20; s.dispatchEvent(new Event('input')); }");
    assert_changed(page, &pixels, "the slider");
    assert_eq!(current_slice(page), 20);
    page.press("m");
}

/// Measures a case: voxels of each structure in reference and prediction, differing voxels, and the mean HU and
/// centroid (x, y, z) of each structure in the reference.
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
fn the_browser_decodes_labels_exactly_and_hounsfield_units_closely() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = open_report(folder.path(), 1280) else {
        return;
    };
    let at = |name: &str| folder.path().join(name);
    // Shown in this order: worst, median, best.
    for (view, case) in [(0, TAG), (1, "phantom_002"), (2, "phantom_001")] {
        let name = page.evaluate(&format!(
            "document.querySelector('.case-choice[data-view=\"{view}\"] b').textContent"
        ));
        assert_eq!(name, case);
        let found = page.evaluate(&MEASURED.replace("VIEW", &view.to_string()));
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
        // The liver and the right kidney are on the patient's right, shown on the left; the spleen and the left kidney
        // on the other side.
        let place = |axis: usize, slot: usize| found["places"][axis][slot].as_f64().unwrap();
        assert!(
            place(0, 1) < place(0, 2) && place(0, 4) < place(0, 3),
            "{found}"
        );
        // The stomach is anterior to the kidneys, and higher.
        assert!(
            place(1, 5) < place(1, 3) && place(2, 5) > place(2, 3),
            "{found}"
        );
    }
    assert_no_problems(&mut page, folder.path());
}

/// The Dice score of the spleen of the first case in `metrics.csv`.
fn first_dice_of_spleen(folder: &Path) -> f64 {
    let table = std::fs::read_to_string(folder.join("eval/metrics.csv")).unwrap();
    let row = table
        .lines()
        .find(|line| line.contains(",spleen,"))
        .unwrap();
    let cells = row.rsplit(",spleen,").next().unwrap();
    cells.split(',').nth(1).unwrap().parse().unwrap()
}

#[test]
fn cases_are_sorted_by_any_column_and_filtered_by_structure() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = open_report(folder.path(), 1280) else {
        return;
    };
    let page = &mut page;
    let names = |page: &mut Page| {
        page.evaluate(
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
        page.evaluate("document.querySelector('[data-column=\"0\"]').parentElement.ariaSort"),
        "ascending"
    );
    page.click("#case-table [data-column='0']");
    assert_eq!(names(page), json!(["phantom_001", "phantom_002", TAG]));
    page.click("#case-table [data-column='-1']");
    assert_eq!(names(page)[1], "phantom_001");
    let cell = "document.querySelector('#case-table tbody tr[data-case=\"0\"] td').textContent";
    let mean = page.evaluate(cell);
    page.evaluate("{ const s = document.querySelector('#structure'); s.value = '1'; s.dispatchEvent(new Event('change')); }");
    let spleen = page.evaluate(cell);
    assert_ne!(mean, spleen);
    let dice = first_dice_of_spleen(folder.path());
    assert_eq!(spleen, format!("{dice:.3}"));
    assert_eq!(
        page.evaluate(
            "document.querySelectorAll('#case-table tr[data-case] td:nth-of-type(1).worst').length"
        ),
        1
    );
    page.evaluate("{ const f = document.querySelector('#find'); f.value = '002'; f.dispatchEvent(new Event('input')); }");
    assert_eq!(
        page.evaluate(
            "[...document.querySelectorAll('#case-table tbody tr')].filter(r => !r.hidden).length"
        ),
        1
    );
    // Box plots by metric.
    page.evaluate("{ const s = document.querySelector('#box-metric'); s.value = 'recall'; s.dispatchEvent(new Event('change')); }");
    let shown = "[...document.querySelectorAll('.boxes')].filter(b => !b.hidden).map(b => b.dataset.metric)";
    assert_eq!(page.evaluate(shown), json!(["recall"]));
    assert_no_problems(page, folder.path());
}

#[test]
fn the_page_fits_narrow_screens_in_both_themes() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut page) = open_report(folder.path(), 1280) else {
        return;
    };
    let page = &mut page;
    // Horizontal overflow of the page.
    let wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    // Screenshots for inspection by eye.
    let pictures = std::env::var_os("CTSEG_TEST_SCREENSHOTS").map(PathBuf::from);
    for width in [1280, 700, 400, 320] {
        page.resize(width);
        page.evaluate(PIXELS);
        assert_eq!(
            page.evaluate(wider),
            0,
            "something is wider than {width} pixels"
        );
        let slice = page.evaluate("document.querySelector('#slice').width");
        assert!(slice.as_i64().unwrap() > i64::from(width) / 3, "{slice}");
        if let Some(folder) = &pictures {
            page.screenshot(&folder.join(format!("report-{width}.png")));
        }
    }
    let ground = "getComputedStyle(document.body).backgroundColor";
    let light = page.evaluate(ground);
    page.click("#theme");
    assert_ne!(page.evaluate(ground), light);
    page.click("#theme");
    assert_eq!(page.evaluate(ground), light);
    let feature = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    page.call("Emulation.setEmulatedMedia", feature);
    page.evaluate("{ delete document.documentElement.dataset.theme; }");
    assert_ne!(page.evaluate(ground), light, "as the system is set");
    // The focused element is visible.
    page.evaluate("document.querySelector('#opacity').focus()");
    page.press("Tab");
    let ring = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(page.evaluate(ring), "solid");
    assert_no_problems(page, folder.path());
}
