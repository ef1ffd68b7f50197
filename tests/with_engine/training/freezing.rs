//! Frozen encoder levels, on every engine of the build and through the binary.

use crate::learners;

use crate::common::{SMALL, phantoms, run, stderr};
use crate::learners::{batch, engines, learner, open, setup, unet};
use ctseg_core::model::bundle::Bundle;
use ctseg_engine::freezing::is_frozen;
use ctseg_engine::learner::{Learner, LearnerSetup};
use ctseg_engine::optim::OptimiserKind;
use ctseg_engine::precision::Precision;
use ctseg_engine::weights::{NamedTensors, with_tensors};

const LEVELS: usize = 2;

fn frozen(kind: OptimiserKind, average: bool) -> LearnerSetup {
    LearnerSetup {
        frozen_levels: LEVELS,
        sync_norms: false,
        group: Default::default(),
        weight_average: average.then_some(0.5),
        ..setup(kind)
    }
}

/// Asserts that frozen tensors are bit-identical and all others changed.
fn assert_only_the_rest_changed(before: &NamedTensors, after: &NamedTensors, levels: usize) {
    for (name, tensor) in before {
        let same = tensor == &after[name];
        assert_eq!(same, is_frozen(name, levels), "{name}");
    }
}

#[test]
fn frozen_levels_stay_bit_identical_and_the_others_learn() {
    for norm in ["batch", "instance"] {
        let config = unet(norm, &[4, 8, 8]);
        for engine in engines() {
            let compute = open(engine, Precision::F32);
            for (kind, average) in [
                (OptimiserKind::Adam, true),
                (OptimiserKind::AdamW, false), // its weight decay needs no gradient
                (OptimiserKind::Sgd, false),
                (OptimiserKind::RmsProp, true),
            ] {
                let mut learner = learner(&config, frozen(kind, average), &compute);
                let before = learner.weights().unwrap();
                let step = |learner: &mut dyn Learner, index: u64| {
                    let report = learner.step(&batch(3, 16), 0.01, index).unwrap();
                    assert!(report.is_taken());
                    report.loss
                };
                let losses: Vec<f64> = (0..6).map(|i| step(learner.as_mut(), i)).collect();
                assert!(losses[5] < losses[0], "{engine} {kind:?} {losses:?}");
                let after = learner.weights().unwrap();
                assert_only_the_rest_changed(&before, &after, LEVELS);
                let averaged = learner.averaged_weights().unwrap();
                assert_only_the_rest_changed(&before, &averaged, LEVELS);

                // The optimiser has no state for frozen weights, and a restored learner continues bit-identically.
                let (state, steps) = learner.state().unwrap();
                assert!(!state.keys().any(|name| {
                    let name = name.split_once('.').map_or("", |(_, name)| name);
                    is_frozen(name, LEVELS) && !average
                }));
                let restored = |setup: LearnerSetup| {
                    let network = config.init(1, 2, &compute.device).unwrap();
                    let network = with_tensors(network, &after, &compute.device).unwrap();
                    compute
                        .restored_learner(network, setup, &state, steps)
                        .unwrap()
                };
                let mut again = restored(frozen(kind, average));
                assert_eq!(step(learner.as_mut(), 6), step(again.as_mut(), 6));
                assert_eq!(learner.weights().unwrap(), again.weights().unwrap());

                // Unfrozen, all levels learn.
                let mut unfrozen = restored(LearnerSetup {
                    frozen_levels: 0,
                    sync_norms: false,
                    group: Default::default(),
                    ..frozen(kind, average)
                });
                step(unfrozen.as_mut(), 6);
                assert_only_the_rest_changed(&after, &unfrozen.weights().unwrap(), 0);
            }
        }
    }
}

#[test]
fn engines_agree_on_the_unfrozen_levels() {
    let config = toml::from_str("kind = 'unet2d'\nwidths = [4, 8, 8]\nnorm = 'batch'").unwrap();
    let weights: Vec<NamedTensors> = engines()
        .into_iter()
        .map(|engine| {
            let compute = open(engine, Precision::F32);
            // Running statistics that are not 0 and 1: a frozen level normalises by them.
            let mut network = learners::weights(&config);
            for (name, tensor) in &mut network {
                if name.ends_with("running_mean") {
                    tensor.values.fill(0.3);
                }
            }
            let fresh = config.init(1, 2, &compute.device).unwrap();
            let fresh = with_tensors(fresh, &network, &compute.device).unwrap();
            let setup = frozen(OptimiserKind::Sgd, false);
            let mut learner = compute.learner(fresh, setup).unwrap();
            for index in 0..3 {
                learner.step(&batch(3, 16), 0.01, index).unwrap();
            }
            learner.weights().unwrap()
        })
        .collect();
    for pair in weights.windows(2) {
        for (name, tensor) in &pair[0] {
            for (a, b) in tensor.values.iter().zip(&pair[1][name].values) {
                assert!((a - b).abs() < 1e-4 * b.abs().max(1.0), "{name}: {a} {b}");
            }
        }
    }
}

#[test]
fn fine_tuning_freezes_levels_until_the_unfreeze_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let data = phantoms(folder.path(), 4, 0);
    let data = data.to_str().unwrap();
    let weights = |model: &str| {
        let bundle = Bundle::open(&folder.path().join(model)).unwrap();
        bundle.stage_weights(2).unwrap().remove(0)
    };
    for engine in engines() {
        let engine = engine.to_string();
        let fit = |more: &[&str], code: i32| {
            let first = ["fit", "--stage", "single", "--data", data, "--fold", "0"];
            let engine = [
                "--device",
                &engine,
                "--precision",
                "f32",
                "--set",
                "training.keep=last",
            ];
            stderr(&run(
                folder.path(),
                &[&first[..], &engine, &SMALL, more].concat(),
                code,
            ))
        };
        fit(&["--model", "first", "--epochs", "1"], 0);
        let tune = ["--from", "first", "--epochs", "2"];
        let freeze = ["--set", "training.freeze_encoder_levels=1"];
        let tune = [&tune[..], &freeze].concat();
        fit(&[&tune[..], &["--model", "second"]].concat(), 0);
        assert_only_the_rest_changed(&weights("first"), &weights("second"), 1);
        let thaw = ["--model", "third", "--set", "training.unfreeze_epoch=1"];
        let log = fit(&[&tune[..], &thaw].concat(), 0);
        assert!(
            log.contains("all encoder levels are trained from now on"),
            "{log}"
        );
        assert_only_the_rest_changed(&weights("first"), &weights("third"), 0);

        // With other channels the first level is re-initialised: frozen, it would stay random.
        let wider = "windows_hu=[[-160, 240], [-200, 1200], [-1000, 0]]";
        let log = fit(
            &[&tune[..], &["--model", "fourth", "--set", wider]].concat(),
            1,
        );
        assert!(log.contains("encoder.0.0.conv.weight"), "{log}");
        let log = fit(&[&freeze[..], &["--model", "fifth"]].concat(), 2);
        assert!(log.contains("--from"), "{log}");
    }
}
