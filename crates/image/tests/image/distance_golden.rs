//! Signed distances compared with SciPy (`scripts/golden/make_distance.py`).

use ndarray::Array3;
use serde_json::Value;

use ctseg_image::metrics::distance_transform::signed_distance_mm;

fn numbers(values: &Value) -> Vec<f64> {
    serde_json::from_value(values.clone()).unwrap()
}

#[test]
fn signed_distances_match_scipy() {
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/golden/distance");
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let golden: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let shape: [usize; 3] = serde_json::from_value(golden["shape"].clone()).unwrap();
        let spacing: [f64; 3] = serde_json::from_value(golden["spacing_mm"].clone()).unwrap();
        let inside = numbers(&golden["inside"])
            .iter()
            .map(|v| *v > 0.0)
            .collect();
        let inside = Array3::from_shape_vec(shape, inside).unwrap();
        let found = signed_distance_mm(inside.view(), spacing);
        for (found, wanted) in found.iter().zip(numbers(&golden["distance_mm"])) {
            assert!(
                (f64::from(*found) - wanted).abs() < 2e-6 * wanted.abs().max(1.0),
                "{}: {found} instead of {wanted}",
                path.display()
            );
        }
        // The same mask with its axes in reverse order.
        let turned = signed_distance_mm(
            inside.view().reversed_axes(),
            [spacing[2], spacing[1], spacing[0]],
        );
        let turned = turned.reversed_axes();
        assert!(turned.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-5));
        compared += found.len();
    }
    assert!(compared > 2000, "{compared}");
}

#[test]
fn a_full_mask_has_no_surface() {
    let all = Array3::from_elem((2, 3, 4), true);
    assert!(
        signed_distance_mm(all.view(), [1.0; 3])
            .iter()
            .all(|d| *d == 0.0)
    );
}
