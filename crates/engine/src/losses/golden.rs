//! For tests of every engine: losses and gradients against PyTorch, MONAI and nnU-Net
//! (`scripts/golden/make_losses.py`), and properties that need no reference.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{ClassWeights, Loss, LossConfig, Outputs};

/// Flat values of `shape` (batch, structure, z, y, x).
#[derive(Clone)]
pub struct Input {
    pub shape: [usize; 5],
    pub logits: Vec<f32>,
    /// NaN for unlabelled voxels.
    pub targets: Vec<f32>,
    pub distances: Vec<f32>,
}

/// An engine's loss and its gradient with respect to the logits.
pub type Compute<'a> = &'a dyn Fn(&Loss, &Input) -> (f64, Vec<f32>);

fn golden() -> Value {
    let file = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .join("tests/golden/losses/losses.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn floats(values: &Value) -> Vec<f32> {
    let value = |v: &Value| v.as_f64().map_or(f32::NAN, |v| v as f32);
    values.as_array().unwrap().iter().map(value).collect()
}

fn input(golden: &Value, name: &str) -> Input {
    let from = &golden["inputs"][name];
    Input {
        shape: serde_json::from_value(from["shape"].clone()).unwrap(),
        logits: floats(&from["logits"]),
        targets: floats(&from["targets"]),
        distances: floats(&from["distances"]),
    }
}

fn loss(config: LossConfig, outputs: &Value, input: &Input, weights: &Value) -> Loss {
    let weights: BTreeMap<String, f64> = serde_json::from_value(weights.clone()).unwrap();
    let of = |name: &str| weights.get(name).copied().unwrap_or(1.0);
    Loss {
        config,
        outputs: serde_json::from_value(outputs.clone()).unwrap(),
        weights: (!weights.is_empty()).then(|| ClassWeights {
            structures: ["first", "second", "third"].map(of).to_vec(),
            background: of("background"),
        }),
        ignore_nan: input.targets.iter().any(|t| t.is_nan()),
    }
}

/// Values and gradients equal the references.
pub fn equal_the_references(compute: Compute) {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let input = input(&golden, case["input"].as_str().unwrap());
        let config: LossConfig = serde_json::from_value(case["loss"].clone()).unwrap();
        let loss = loss(config, &case["outputs"], &input, &case["class_weights"]);
        let (value, gradient) = compute(&loss, &input);
        let expected = case["value"].as_f64().unwrap();
        let name = format!(
            "{} {} {}",
            case["input"], case["loss"], case["class_weights"]
        );
        assert!(
            (value - expected).abs() < 2e-6 * expected.abs().max(1.0),
            "{name}: {value} instead of {expected}"
        );
        let wanted = floats(&case["gradient"]);
        let largest = wanted.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert_eq!(gradient.len(), wanted.len());
        for (at, (found, wanted)) in gradient.iter().zip(&wanted).enumerate() {
            assert!(
                (found - wanted).abs() < 1e-5 * largest,
                "{name}: gradient {found} instead of {wanted} at {at}"
            );
        }
    }
}

/// Every loss of the golden values with its kind of outputs.
fn each(golden: &Value) -> impl Iterator<Item = (LossConfig, &Value)> {
    golden["cases"].as_array().unwrap().iter().map(|case| {
        let config = serde_json::from_value(case["loss"].clone()).unwrap();
        (config, &case["outputs"])
    })
}

/// Unlabelled voxels have no loss and no gradient.
pub fn nothing_known_costs_nothing(compute: Compute) {
    let golden = golden();
    for (config, outputs) in each(&golden) {
        let mut input = input(&golden, "exclusive");
        input.targets.fill(f32::NAN);
        let loss = loss(config, outputs, &input, &Value::Object(Default::default()));
        let (value, gradient) = compute(&loss, &input);
        // A structure that is neither present nor predicted costs nothing; 1 − (s / s) may round.
        assert!(value.abs() < 1e-3, "{loss:?}: {value}");
        assert!(gradient.iter().all(|g| *g == 0.0), "{loss:?}");
    }
}

/// Huge logits give a finite loss and gradient.
pub fn huge_logits_stay_finite(compute: Compute) {
    let golden = golden();
    for factor in [1e2, 1e4, 1e8] {
        for (config, outputs) in each(&golden) {
            let mut input = input(&golden, "exclusive");
            input.logits.iter_mut().for_each(|x| *x *= factor);
            let loss = loss(config, outputs, &input, &Value::Object(Default::default()));
            let (value, gradient) = compute(&loss, &input);
            assert!(value.is_finite(), "{loss:?}: {value}");
            assert!(gradient.iter().all(|g| g.is_finite()), "{loss:?} {factor}");
        }
    }
}

/// The logits of ignored voxels have no effect.
pub fn ignored_logits_do_not_matter(compute: Compute) {
    let golden = golden();
    for (config, outputs) in each(&golden) {
        let exclusive = outputs == &serde_json::to_value(Outputs::Exclusive).unwrap();
        let name = match exclusive {
            true => "exclusive_ignored",
            false => "independent_ignored",
        };
        let input = input(&golden, name);
        let mut other = input.clone();
        for (logit, target) in other.logits.iter_mut().zip(&input.targets) {
            if target.is_nan() {
                *logit = 7.5 - *logit;
            }
        }
        let loss = loss(config, outputs, &input, &Value::Object(Default::default()));
        let (value, gradient) = compute(&loss, &input);
        assert_eq!(
            (value, gradient.clone()),
            compute(&loss, &other),
            "{loss:?}"
        );
        for (gradient, target) in gradient.iter().zip(&input.targets) {
            assert!(!target.is_nan() || *gradient == 0.0, "{loss:?}: {gradient}");
        }
    }
}
