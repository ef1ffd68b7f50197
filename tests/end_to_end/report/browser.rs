//! The page in a browser: it shows what was measured, and can be worked with.

use super::*;

use crate::common::browser::{Page, chromium};
use ctseg_image::nifti::read_volume;

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
    assert_scrolls(page);
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

/// What is on the large canvas, which is no longer `from`.
fn changed(page: &mut Page, from: &Value, what: &str) -> Value {
    let to = page.value(PIXELS);
    assert_ne!(&to, from, "{what} changes nothing");
    to
}

/// Slices change by keyboard, wheel and slider.
fn assert_scrolls(page: &mut Page) {
    let first = page.value(PIXELS);
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

/// As `ctseg evaluate` has written it.
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
    let dice = first_dice_of_spleen(folder.path());
    assert_eq!(spleen, format!("{dice:.3}"));
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
