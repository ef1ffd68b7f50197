//! Fingerprints of datasets, compared with NumPy and nibabel.

use super::*;

/// Computes the fingerprint from the files with NumPy and nibabel.
const NUMPY: &str = r#"
import json, sys
import nibabel as nib, numpy as np
hu, spacing, extent, span, volumes = [], [], [], [], {}
for image, labels in json.load(sys.stdin):
    image = nib.as_closest_canonical(nib.load(image))
    mask = np.asarray(nib.as_closest_canonical(nib.load(labels)).dataobj)
    values = np.asarray(image.dataobj, dtype=np.float64)
    zooms = np.array(image.header.get_zooms()[:3], dtype=np.float64)
    hu.append(np.round(values[mask > 0]))
    spacing.append(zooms); extent.append(zooms * values.shape)
    where = np.argwhere(mask > 0)
    span.append((where.max(0) - where.min(0) + 1) * zooms)
    for value in np.unique(mask[mask > 0]):
        volumes.setdefault(int(value), []).append(float((mask == value).sum() * zooms.prod() / 1000))
hu = np.concatenate(hu)
print(json.dumps({
    "hu": [hu.size, hu.mean(), hu.std(), hu.min(), hu.max(), *np.percentile(hu, [50, 0.5, 99.5])],
    "spacing": np.median(spacing, 0).tolist(), "extent": np.median(extent, 0).tolist(),
    "span": np.median(span, 0).tolist(), "large": np.percentile(span, 95, axis=0).tolist(),
    "share": float(np.median(np.prod(np.array(span) / np.array(extent), 1))),
    "volumes": {k: float(np.median(v)) for k, v in volumes.items()},
}))
"#;

fn numpy_fingerprint(dataset: &Dataset) -> Option<Value> {
    use ctseg_core::dataset::LabelSource;
    use std::io::Write;
    let python = std::env::var_os("CTSEG_TEST_PYTHON")?;
    let cases = dataset.training_cases().into_iter();
    let files: Vec<(PathBuf, PathBuf)> = cases
        .map(|case| match &dataset.cases[case].labels {
            LabelSource::Map(labels) => (dataset.cases[case].image.clone(), labels.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    let mut child = Command::new(python)
        .args(["-c", NUMPY])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_string(&files).unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

pub(super) fn assert_matches_numpy(dataset: &Dataset) {
    let Some(expected) = numpy_fingerprint(dataset) else {
        println!("skipped: CTSEG_TEST_PYTHON is not set");
        return;
    };
    let found = Fingerprint::of(dataset, &Silent).unwrap();
    let close = |what: &str, found: &[f64], expected: &Value| {
        let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
        let near = found
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
        assert!(
            found.len() == expected.len() && near,
            "{what}: {found:?} for {expected:?}"
        );
    };
    let hu = found.foreground_hu.unwrap();
    let figures = [
        hu.voxels as f64,
        hu.mean,
        hu.sd,
        hu.min,
        hu.max,
        hu.median,
        hu.percentile_00_5,
        hu.percentile_99_5,
    ];
    close("HU", &figures, &expected["hu"]);
    close("spacing", &found.median_spacing_mm, &expected["spacing"]);
    close("extent", &found.median_extent_mm, &expected["extent"]);
    close("span", &found.median_foreground_mm, &expected["span"]);
    close("large span", &found.large_foreground_mm, &expected["large"]);
    close(
        "share",
        &[found.median_foreground_share],
        &serde_json::json!([expected["share"]]),
    );
    for structure in &dataset.structures {
        let median = &expected["volumes"][structure.value.to_string()];
        let own = found.structures[&structure.name].median_ml;
        close(&structure.name, &[own], &serde_json::json!([median]));
    }
}
