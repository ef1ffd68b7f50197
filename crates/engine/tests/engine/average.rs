//! Moving average of the weights, on every engine of the build.

use std::collections::BTreeMap;

use crate::learners::{batch, engines, learner, open, setup, unet};
use ctseg_engine::inference::Inference;
use ctseg_engine::learner::{Learner, LearnerSetup};
use ctseg_engine::optim::OptimiserKind;
use ctseg_engine::precision::Precision;
use ctseg_engine::weights::{NamedTensors, with_tensors};

const DECAY: f64 = 0.4;

fn averaging() -> LearnerSetup {
    LearnerSetup {
        weight_average: Some(DECAY),
        ..setup(OptimiserKind::Adam)
    }
}

fn largest_difference(a: &NamedTensors, b: &NamedTensors) -> f32 {
    let differences = a.iter().flat_map(|(name, tensor)| {
        let pairs = tensor.values.iter().zip(&b[name].values);
        pairs.map(|(a, b)| (a - b).abs())
    });
    differences.fold(0.0, f32::max)
}

#[test]
fn the_average_matches_its_formula_and_is_used_for_inference() {
    let config = unet("batch", &[4, 8]);
    for engine in engines() {
        let compute = open(engine, Precision::F32);
        let mut learner = learner(&config, averaging(), &compute);
        let start = learner.weights().unwrap();
        assert_eq!(learner.averaged_weights().unwrap(), start, "{engine}");
        let mut expected: BTreeMap<String, Vec<f64>> = start
            .into_iter()
            .map(|(name, tensor)| (name, tensor.values.into_iter().map(f64::from).collect()))
            .collect();
        for index in 0..9 {
            let report = learner.step(&batch(3, 16), 0.01, index).unwrap();
            assert!(report.is_taken(), "{engine} {report:?}");
            let t = (index + 1) as f64;
            let decay = DECAY.min((1.0 + t) / (10.0 + t));
            for (name, weights) in learner.weights().unwrap() {
                let averages = expected.get_mut(&name).unwrap();
                for (average, weight) in averages.iter_mut().zip(&weights.values) {
                    *average = decay * *average + (1.0 - decay) * f64::from(*weight);
                }
            }
            let found = learner.averaged_weights().unwrap();
            assert_eq!(found.len(), expected.len());
            for (name, averages) in &expected {
                assert_eq!(found[name].values.len(), averages.len());
                for (a, b) in found[name].values.iter().zip(averages) {
                    let difference = (f64::from(*a) - b).abs();
                    assert!(
                        difference < 1e-6 * b.abs().max(1.0),
                        "{engine} {name}: {a} {b}"
                    );
                }
            }
        }
        let averaged = learner.averaged_weights().unwrap();
        let raw = learner.weights().unwrap();
        assert!(largest_difference(&averaged, &raw) > 1e-3, "{engine}");

        let network = config.init(1, 2, &compute.device).unwrap();
        let built = with_tensors(network, &averaged, &compute.device).unwrap();
        let seen = batch(2, 16);
        let [expected, found] = [built, learner.network().unwrap()].map(|network| {
            let inference = Inference::new(vec![network], &compute).unwrap();
            let logits = inference.logits(&seen.input, seen.input_shape, None);
            logits.unwrap().0
        });
        for (a, b) in found.iter().zip(expected.iter()) {
            assert!((a - b).abs() < 1e-4, "{engine}: {a} {b}");
        }
    }
}

#[test]
fn the_average_survives_saving_to_the_last_bit() {
    let config = unet("batch", &[4, 8]);
    for engine in engines() {
        let compute = open(engine, Precision::F32);
        let mut learner = learner(&config, averaging(), &compute);
        let step = |learner: &mut dyn Learner, index: u64| {
            learner.step(&batch(3, 16), 0.01, index).unwrap();
        };
        for index in 0..3 {
            step(learner.as_mut(), index);
        }
        let (state, steps) = learner.state().unwrap();
        let restored = |state: &NamedTensors, setup: LearnerSetup| {
            let network = config.init(1, 2, &compute.device).unwrap();
            let weights = learner.weights().unwrap();
            let network = with_tensors(network, &weights, &compute.device).unwrap();
            compute
                .restored_learner(network, setup, state, steps)
                .unwrap()
        };
        let mut again = restored(&state, averaging());
        // Without an average in the state, it starts with the current weights.
        let before: NamedTensors = state
            .iter()
            .filter(|(name, _)| !name.starts_with("average."))
            .map(|(name, tensor)| (name.clone(), tensor.clone()))
            .collect();
        let fresh = restored(&before, averaging());
        assert!(before.len() < state.len());
        assert_eq!(
            fresh.averaged_weights().unwrap(),
            learner.weights().unwrap(),
            "{engine}"
        );
        // A recipe without an average resumes without one.
        let without = restored(&state, setup(OptimiserKind::Adam));
        assert_eq!(without.state().unwrap().0, before, "{engine}");
        assert_eq!(
            without.averaged_weights().unwrap(),
            learner.weights().unwrap()
        );

        step(learner.as_mut(), 3);
        step(again.as_mut(), 3);
        let [ours, theirs] = [&learner, &again].map(|l| l.averaged_weights().unwrap());
        assert!(ours == theirs, "{engine}");
        assert_eq!(learner.state().unwrap(), again.state().unwrap(), "{engine}");
    }
}

#[test]
fn a_skipped_step_does_not_change_the_average() {
    let config = unet("instance", &[4, 8]);
    for engine in engines() {
        let compute = open(engine, Precision::F32);
        let mut learner = learner(&config, averaging(), &compute);
        for index in 0..2 {
            learner.step(&batch(3, 16), 0.01, index).unwrap();
        }
        let before = learner.averaged_weights().unwrap();
        let mut broken = batch(3, 16);
        broken.input[5] = f32::NAN;
        assert!(!learner.step(&broken, 0.01, 2).unwrap().is_taken());
        assert!(learner.averaged_weights().unwrap() == before, "{engine}");
    }
}
