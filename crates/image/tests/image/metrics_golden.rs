//! Overlap metrics compared with scikit-image, SciPy and NumPy (scripts/golden/make_metrics.py).

use ndarray::Array3;
use serde::Deserialize;

use ctseg_image::metrics::overlap::{Overlap, Summary, overlaps, recall_inside, volume_ml};
use ctseg_image::space::{Grid, LabelMap, VoxelBox};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
    summaries: Vec<ExpectedSummary>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    shape_xyz: [usize; 3],
    prediction: String,
    reference: String,
    structures: Vec<Expected>,
    region: VoxelBox,
    recall_inside: Option<f64>,
}

#[derive(Deserialize)]
struct Expected {
    label: u16,
    true_positive: u64,
    false_positive: u64,
    false_negative: u64,
    true_negative: u64,
    dice: Option<f64>,
    iou: Option<f64>,
    precision: Option<f64>,
    recall: Option<f64>,
    accuracy: Option<f64>,
}

#[derive(Deserialize)]
struct ExpectedSummary {
    label: u16,
    metric: String,
    mean: Option<f64>,
    sd: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    defined: usize,
    undefined: usize,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!(
        "../../../../tests/golden/metrics/overlap.json"
    ))
    .unwrap()
}

fn label_map(shape_xyz: [usize; 3], digits: &str) -> LabelMap {
    let grid = Grid::with_spacing(shape_xyz, [0.8, 0.8, 2.5]);
    let labels = digits.bytes().map(|d| u16::from(d - b'0')).collect();
    LabelMap {
        grid,
        data: Array3::from_shape_vec(grid.shape_zyx(), labels).unwrap(),
    }
}

fn computed(case: &Case) -> Vec<Overlap> {
    let structures: Vec<u16> = case.structures.iter().map(|s| s.label).collect();
    overlaps(
        &label_map(case.shape_xyz, &case.prediction),
        &label_map(case.shape_xyz, &case.reference),
        &structures,
    )
    .unwrap()
}

fn assert_close(found: Option<f64>, expected: Option<f64>, what: &str) {
    let close = match (found, expected) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-12,
        (a, b) => a == b,
    };
    assert!(close, "{what}: found {found:?}, expected {expected:?}");
}

#[test]
fn counts_and_scores_match_scikit_image_and_scipy() {
    for case in golden().cases {
        for (found, expected) in computed(&case).iter().zip(&case.structures) {
            let what = format!("{}, label {}", case.name, expected.label);
            let counts = Overlap {
                true_positive: expected.true_positive,
                false_positive: expected.false_positive,
                false_negative: expected.false_negative,
                true_negative: expected.true_negative,
            };
            assert_eq!(*found, counts, "{what}");
            assert_close(found.dice(), expected.dice, &what);
            assert_close(found.iou(), expected.iou, &what);
            assert_close(found.precision(), expected.precision, &what);
            assert_close(found.recall(), expected.recall, &what);
            assert_close(found.accuracy(), expected.accuracy, &what);
        }
        let reference = label_map(case.shape_xyz, &case.reference);
        let recall = recall_inside(&reference, &case.region);
        assert_close(recall, case.recall_inside, &case.name);
    }
}

#[test]
fn summaries_match_numpy() {
    let golden = golden();
    let found: Vec<Vec<Overlap>> = golden.cases.iter().map(computed).collect();
    for expected in golden.summaries {
        let index = golden.cases[0]
            .structures
            .iter()
            .position(|s| s.label == expected.label)
            .unwrap();
        let scores = found.iter().map(|case| match expected.metric.as_str() {
            "dice" => case[index].dice(),
            "precision" => case[index].precision(),
            "recall" => case[index].recall(),
            other => panic!("metric {other}"),
        });
        let summary = Summary::of(scores);
        let what = format!("{} of label {}", expected.metric, expected.label);
        assert_close(summary.mean, expected.mean, &what);
        assert_close(summary.sd, expected.sd, &what);
        assert_close(summary.min, expected.min, &what);
        assert_close(summary.max, expected.max, &what);
        assert_eq!(summary.defined, expected.defined, "{what}");
        assert_eq!(summary.undefined, expected.undefined, "{what}");
    }
}

#[test]
fn empty_masks_follow_the_documented_table() {
    let scores = |overlap: Overlap| {
        [
            overlap.dice(),
            overlap.iou(),
            overlap.precision(),
            overlap.recall(),
        ]
    };
    let masks = |true_positive, false_positive, false_negative| Overlap {
        true_positive,
        false_positive,
        false_negative,
        true_negative: 10,
    };
    assert_eq!(scores(masks(0, 0, 0)), [None; 4]);
    assert_eq!(
        scores(masks(0, 0, 3)),
        [Some(0.0), Some(0.0), None, Some(0.0)]
    );
    assert_eq!(
        scores(masks(0, 3, 0)),
        [Some(0.0), Some(0.0), Some(0.0), None]
    );
    assert_eq!(scores(masks(3, 0, 0)), [Some(1.0); 4]);
    assert_eq!(masks(0, 0, 0).accuracy(), Some(1.0));
    assert_eq!(Overlap::default().accuracy(), None);
}

#[test]
fn memory_layout_does_not_change_counts() {
    let case = &golden().cases[0];
    let mut prediction = label_map(case.shape_xyz, &case.prediction);
    let structures: Vec<u16> = case.structures.iter().map(|s| s.label).collect();
    // The same values, stored with z fastest.
    let stored = prediction.data.t().as_standard_layout().into_owned();
    prediction.data = stored.reversed_axes();
    assert!(!prediction.data.is_standard_layout());
    let reference = label_map(case.shape_xyz, &case.reference);
    let found = overlaps(&prediction, &reference, &structures).unwrap();
    assert_eq!(found, computed(case));
}

#[test]
fn a_structure_requested_twice_is_returned_twice() {
    let case = &golden().cases[0];
    let reference = label_map(case.shape_xyz, &case.reference);
    let found = overlaps(&reference, &reference, &[2, 1, 2]).unwrap();
    assert_eq!(found[0], found[2]);
    assert_ne!(found[0], found[1]);
    assert_eq!(found[0].dice(), Some(1.0));
}

#[test]
fn mismatched_maps_give_one_line_errors() {
    let map = |shape| LabelMap::empty(Grid::with_spacing(shape, [1.0, 1.0, 3.0]));
    let error = overlaps(&map([4, 5, 6]), &map([4, 5, 7]), &[1]).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("4x5x6") && message.contains("4x5x7"),
        "{message}"
    );
    assert!(!message.contains('\n'));
    let mut moved = map([4, 5, 6]);
    moved.grid.affine[2][3] = 3.0;
    let error = overlaps(&moved, &map([4, 5, 6]), &[1]).unwrap_err();
    assert!(error.to_string().contains("3.000 mm apart"), "{error}");
    moved.grid.affine[2][3] = 0.05;
    assert!(overlaps(&moved, &map([4, 5, 6]), &[1]).is_ok());
    moved.grid.affine[2][3] = f64::NAN;
    assert!(overlaps(&moved, &map([4, 5, 6]), &[1]).is_err());
}

#[test]
fn regions_beyond_the_map_and_volumes_in_ml() {
    let mut map = LabelMap::empty(Grid::with_spacing([4, 3, 2], [2.0, 2.0, 5.0]));
    assert_eq!(recall_inside(&map, &VoxelBox::whole([4, 3, 2])), None);
    map.data[[1, 2, 3]] = 9;
    map.data[[0, 0, 0]] = 1;
    let region = VoxelBox {
        start: [1, 1, 1],
        end: [90, 90, 90],
    };
    assert_eq!(recall_inside(&map, &region), Some(0.5));
    assert_eq!(volume_ml(50, &map.grid), 1.0);
}
