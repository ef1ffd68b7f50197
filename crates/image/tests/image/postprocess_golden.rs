//! Postprocessing of masks compared with scikit-image and SciPy (scripts/golden/make_postprocess.py).

use ndarray::Array3;
use serde::Deserialize;

use ctseg_image::labels::postprocess::{Step, apply};
use ctseg_image::resample::{Interpolation, resample};
use ctseg_image::space::{Grid, LabelMap, Volume};

#[derive(Deserialize)]
struct Golden {
    spacing_zyx: [f64; 3],
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    shape_zyx: [usize; 3],
    mask: String,
    steps: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    step: Step,
    result: String,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!(
        "../../../../tests/golden/postprocess/masks.json"
    ))
    .unwrap()
}

fn labels(case: &Case, digits: &str, spacing_zyx: [f64; 3]) -> LabelMap {
    let [z, y, x] = case.shape_zyx;
    let [sz, sy, sx] = spacing_zyx;
    LabelMap {
        grid: Grid::with_spacing([x, y, z], [sx, sy, sz]),
        data: Array3::from_shape_vec(
            case.shape_zyx,
            digits.bytes().map(|d| 7 * u16::from(d - b'0')).collect(),
        )
        .unwrap(),
    }
}

/// The label map with its axes in another order and direction.
fn reoriented(labels: &LabelMap, orientation: &str) -> LabelMap {
    let grid = labels.grid.reoriented(orientation.parse().unwrap());
    let volume = Volume {
        grid: labels.grid,
        data: labels.data.mapv(f32::from),
    };
    let moved = resample(&volume, &grid, Interpolation::Nearest).unwrap();
    LabelMap {
        grid,
        data: moved.data.mapv(|v| v as u16),
    }
}

#[test]
fn every_step_matches_its_reference() {
    let golden = golden();
    let mut changed = std::collections::BTreeMap::new();
    for case in &golden.cases {
        let before = labels(case, &case.mask, golden.spacing_zyx);
        for expected in &case.steps {
            let wanted = labels(case, &expected.result, golden.spacing_zyx);
            let mut found = before.clone();
            apply(&mut found, &[(7, vec![expected.step])]).unwrap();
            assert!(found == wanted, "{}: {:?}", case.name, expected.step);
            let name = format!("{:?}", expected.step);
            let name = name.split([' ', '{']).next().unwrap().to_owned();
            *changed.entry(name).or_insert(0) += usize::from(found != before);
        }
    }
    assert_eq!(changed.len(), 5, "{changed:?}");
    assert!(changed.values().all(|cases| *cases >= 3), "{changed:?}");
}

#[test]
fn axial_slices_follow_the_patient_not_the_file_axes() {
    let golden = golden();
    for case in golden
        .cases
        .iter()
        .filter(|case| case.name == "shell" || case.name == "sponge")
    {
        let before = labels(case, &case.mask, golden.spacing_zyx);
        for expected in &case.steps {
            let wanted = labels(case, &expected.result, golden.spacing_zyx);
            // Which of two equally large components comes first depends on the axes.
            if matches!(expected.step, Step::LargestComponent { .. }) {
                continue;
            }
            for orientation in ["SAL", "PIR"] {
                let mut found = reoriented(&before, orientation);
                apply(&mut found, &[(7, vec![expected.step])]).unwrap();
                assert!(
                    found == reoriented(&wanted, orientation),
                    "{} {orientation}: {:?}",
                    case.name,
                    expected.step
                );
            }
        }
    }
}

#[test]
fn threads_and_other_structures_do_not_change_results() {
    let golden = golden();
    let case = &golden.cases[1];
    let mut both = labels(case, &case.mask, golden.spacing_zyx);
    // A second, noisy structure in the background.
    both.data.indexed_iter_mut().for_each(|((z, y, x), label)| {
        if *label == 0 && (z * 5 + y * 3 + x) % 7 < 3 {
            *label = 9;
        }
    });
    let steps: Vec<Step> = case.steps.iter().rev().step_by(3).map(|e| e.step).collect();
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let mut found = both.clone();
        pool.install(|| apply(&mut found, &[(7, steps.clone()), (9, steps.clone())]))
            .unwrap();
        found
    };
    let one = on(1);
    assert!(one == on(3) && one != both);
    // No structure takes voxels of the other.
    let pairs = one.data.iter().zip(&both.data);
    assert!(
        pairs
            .filter(|(_, before)| **before > 0)
            .all(|(now, before)| *now == 0 || now == before)
    );
}
