//! `predict --threshold`, through the binary, against the probabilities of the same run.

use std::path::Path;

use crate::common::{phantoms, publish_random, run, run_json, small_recipe, stderr};
use ctseg_core::outputs::probabilities::ProbabilityKind;
use ctseg_core::outputs::probabilities_reader::ProbabilityReader;
use ctseg_image::nifti::read_labels;

const IMAGE: &str = "data/images/phantom_000.nii.gz";
/// The label values of `publish_random`, in the order of their maps.
const VALUES: [u16; 2] = [1, 300];
/// 16-bit probabilities closer than this to a threshold, or to each other, are inconclusive.
const CLOSE: f64 = 2e-3;

fn logit(probability: f64) -> f64 {
    (probability / (1.0 - probability)).ln()
}

/// The labels and each voxel's probabilities of both structures.
fn predicted(here: &Path, out: &str, model: &str, threshold: &[&str]) -> (Vec<u16>, Vec<[f64; 2]>) {
    let common = ["predict", IMAGE, "-o", out, "--model", model];
    let all = [&common, &["--save-probabilities=f16"][..], threshold].concat();
    run(here, &all, 0);
    let out = here.join(out);
    let (_, labels) = read_labels(&out.join("phantom_000.nii.gz")).unwrap();
    let reader = ProbabilityReader::open_array(&out.join("phantom_000_probabilities.npy")).unwrap();
    let mut maps = [Vec::new(), Vec::new()];
    reader
        .each_slice(|map, _, codes| {
            let codes = codes.iter();
            maps[map].extend(codes.map(|code| ProbabilityKind::F16.probability(*code)));
        })
        .unwrap();
    let [first, second] = maps;
    let pairs = first.into_iter().zip(second).map(|(a, b)| [a, b]);
    (labels.data.into_iter().collect(), pairs.collect())
}

/// How far each structure's probability is above its threshold, as the guide defines it.
fn margins(outputs: &str, p: [f64; 2], thresholds: [f64; 2]) -> [f64; 2] {
    let background = 1.0 - p[0] - p[1];
    [0, 1].map(|s| match outputs {
        "independent" => p[s] - thresholds[s],
        _ => logit(p[s] / (p[s] + background)) - logit(thresholds[s]),
    })
}

/// Asserts that each label is the structure farthest above its threshold; returns the number of labelled voxels.
fn labelled(outputs: &str, labels: &[u16], pairs: &[[f64; 2]], thresholds: [f64; 2]) -> usize {
    assert_eq!(labels.len(), pairs.len());
    let mut decided = 0;
    for (label, p) in labels.iter().zip(pairs) {
        let margins = margins(outputs, *p, thresholds);
        if margins.iter().any(|margin| margin.abs() < CLOSE) {
            continue;
        }
        decided += 1;
        let above = margins.map(|margin| margin > 0.0);
        let held = VALUES.iter().position(|value| value == label);
        let expected = held.map_or([false, false] == above, |s| above[s]);
        assert!(
            expected,
            "{outputs}, {thresholds:?}: label {label} of {p:?}"
        );
        if let ("exclusive", Some(s)) = (outputs, held) {
            let wins = !above[1 - s] || margins[s] > margins[1 - s] - CLOSE;
            assert!(wins, "{thresholds:?}: label {label} of {p:?}");
        }
    }
    assert!(decided * 2 > labels.len(), "few voxels are conclusive");
    labels.iter().filter(|label| **label > 0).count()
}

/// A model with random weights in the folder `outputs`.
fn model(here: &Path, outputs: &str) {
    let loss = match outputs {
        "exclusive" => "training.loss=ce_dice",
        _ => "training.loss=bce_dice",
    };
    let outputs_set = format!("outputs={outputs}");
    let recipe = small_recipe("single", &[&outputs_set, loss, "train_folds=[0]"]);
    publish_random(&here.join(outputs), &recipe, &[&[]]);
}

#[test]
fn labels_are_the_structures_above_their_thresholds() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 1, 0);
    for outputs in ["exclusive", "independent"] {
        model(here, outputs);
        let marked = [
            (vec![], [0.5, 0.5]),
            (vec!["--threshold", "0.4"], [0.4, 0.4]),
            (vec!["--threshold", "0.6,spleen=0.45"], [0.6, 0.45]),
        ]
        .map(|(given, thresholds)| {
            let out = format!("{outputs}-{thresholds:?}");
            let (labels, pairs) = predicted(here, &out, outputs, &given);
            labelled(outputs, &labels, &pairs, thresholds)
        });
        let all_differ = marked[0] != marked[1] && marked[1] != marked[2];
        assert!(all_differ, "{outputs}: {marked:?}");
    }
}

#[test]
fn another_threshold_predicts_a_case_again() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    phantoms(&here.join("data"), 1, 0);
    model(here, "exclusive");
    let predict = ["predict", IMAGE, "--model", "exclusive"];
    let kept = |threshold: &[&str]| {
        let all = [&predict, &["-o", "out", "--json"][..], threshold].concat();
        let summary = run_json(here, &all, 0);
        summary["kept"].as_array().unwrap().len()
    };
    let lower = ["--threshold", "0.4"];
    assert_eq!([kept(&[]), kept(&lower), kept(&lower)], [0, 0, 1]);
    let unknown = [&predict[..], &["--threshold", "lever=0.3"]].concat();
    let log = stderr(&run(here, &unknown, 2));
    assert!(log.contains("liver"), "{log}");
}
