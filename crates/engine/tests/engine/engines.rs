//! Learners and inference on every engine of the build: the same results, with and without enough memory.

use crate::learners::{batch, engines, learner, open, setup, unet};
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::inference::Inference;
use ctseg_engine::learner::Learner;
use ctseg_engine::optim::OptimiserKind;
use ctseg_engine::precision::Precision;
use ctseg_engine::weights::with_tensors;

#[test]
fn every_optimiser_learns_on_every_engine_and_its_state_survives() {
    let config = unet("batch", &[4, 8]);
    for engine in engines() {
        let compute = open(engine, Precision::F32);
        for kind in [
            OptimiserKind::Adam,
            OptimiserKind::AdamW,
            OptimiserKind::Sgd,
            OptimiserKind::RmsProp,
        ] {
            let mut learner = learner(&config, setup(kind), &compute);
            let step = |learner: &mut dyn Learner, index: u64| {
                let report = learner.step(&batch(3, 16), 0.01, index).unwrap();
                assert!(report.is_taken(), "{engine} {kind:?} {report:?}");
                report.loss
            };
            let first = step(learner.as_mut(), 0);
            for index in 1..8 {
                step(learner.as_mut(), index);
            }
            // Saving and restoring in between gives bit-identical weights.
            let network = config.init(1, 2, &compute.device).unwrap();
            let saved = with_tensors(network, &learner.weights().unwrap(), &compute.device);
            let (state, steps) = learner.state().unwrap();
            assert_eq!(steps, 8);
            let mut again = compute
                .restored_learner(saved.unwrap(), setup(kind), &state, steps)
                .unwrap();
            let (a, b) = (step(learner.as_mut(), 8), step(again.as_mut(), 8));
            assert_eq!(a, b, "{engine} {kind:?}");
            assert!(a < first, "{engine} {kind:?}: {first} → {a}");
            assert_eq!(learner.weights().unwrap(), again.weights().unwrap());
            assert_eq!(learner.state().unwrap(), again.state().unwrap());
        }
    }
}

#[test]
fn plain_gradient_descent_needs_no_memory() {
    let config = unet("batch", &[4, 8]);
    for engine in engines() {
        let compute = open(engine, Precision::F32);
        let mut setup = setup(OptimiserKind::Sgd);
        setup.optimiser.momentum = 0.0;
        setup.optimiser.nesterov = false;
        let mut learner = learner(&config, setup, &compute);
        let losses: Vec<f64> = (0..6)
            .map(|index| learner.step(&batch(3, 16), 0.05, index).unwrap().loss)
            .collect();
        assert!(losses[5] < losses[0], "{engine}: {losses:?}");
    }
}

#[test]
fn a_network_in_use_equals_itself_on_other_engines_and_unfolded() {
    for norm in ["batch", "instance"] {
        let config = unet(norm, &[4, 8, 16]);
        // Running statistics other than 0 and 1.
        let compute = open(DeviceChoice::Flex, Precision::F32);
        let mut trained = learner(&config, setup(OptimiserKind::Adam), &compute);
        for index in 0..3 {
            trained.step(&batch(2, 16), 0.01, index).unwrap();
        }
        let tensors = trained.weights().unwrap();
        let input = batch(5, 24);
        let unfolded = {
            use burn::tensor::{Tensor, TensorData};
            let data = TensorData::new(input.input.clone(), input.input_shape);
            let x = Tensor::<5>::from_data(data, &compute.device);
            let logits = trained.network().unwrap().forward(x).unwrap();
            logits.into_data().try_into_vec::<f32>().unwrap()
        };
        for engine in engines() {
            let compute = open(engine, Precision::F32);
            let network = config.init(1, 2, &compute.device).unwrap();
            let network = with_tensors(network, &tensors, &compute.device).unwrap();
            let inference = Inference::new(vec![network], &compute).unwrap();
            let (logits, shape) = inference
                .logits(&input.input, input.input_shape, None)
                .unwrap();
            assert_eq!(shape, input.targets_shape);
            let largest = unfolded.iter().fold(0f32, |a, v| a.max(v.abs()));
            for (a, b) in logits.iter().zip(&unfolded) {
                assert!((a - b).abs() < 1e-4 * largest, "{engine} {norm}: {a} {b}");
            }
        }
    }
}

#[cfg(feature = "libtorch")]
mod libtorch {
    use super::*;
    use crate::learners::weights;
    use ctseg_base::Error;
    use ctseg_engine::batch::Batch;
    use ctseg_engine::device::Compute;
    use ctseg_engine::learner::LearnerSetup;
    use ctseg_engine::libtorch::{cpu_memory, limit_cpu_memory, reset_cpu_peak};
    use ctseg_engine::networks::NetworkConfig;
    use ctseg_engine::weights::NamedTensors;
    use std::sync::{Mutex, PoisonError};

    fn flat(tensors: &NamedTensors) -> Vec<f32> {
        tensors.values().flat_map(|t| t.values.clone()).collect()
    }

    fn largest_difference(a: &NamedTensors, b: &NamedTensors) -> f32 {
        let pairs = flat(a).into_iter().zip(flat(b));
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// The memory limit is per process; these tests take turns.
    static MEMORY: Mutex<()> = Mutex::new(());

    fn turn() -> std::sync::MutexGuard<'static, ()> {
        MEMORY.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A network and a batch whose activations are far larger than its weights.
    fn large() -> (NetworkConfig, Batch) {
        let config: NetworkConfig =
            toml::from_str("kind = 'unet2d'\nwidths = [16, 32]\nnorm = 'instance'").unwrap();
        (config, batch(8, 128))
    }

    #[test]
    fn engines_follow_the_same_gradient() {
        let _turn = turn();
        let config: NetworkConfig = toml::from_str("kind = 'unet2d'\nwidths = [4, 8, 16]").unwrap();
        let after: Vec<NamedTensors> = engines()
            .into_iter()
            .map(|engine| {
                let compute = open(engine, Precision::F32);
                let mut learner = learner(&config, setup(OptimiserKind::Sgd), &compute);
                for index in 0..3 {
                    learner.step(&batch(4, 16), 0.01, index).unwrap();
                }
                learner.weights().unwrap()
            })
            .collect();
        let difference = largest_difference(&after[0], &after[1]);
        assert!(difference < 1e-4, "{difference}");
    }

    /// f16 is for GPUs; a CPU computes it too, slowly, which shows that loss scaling changes nothing beyond the
    /// limits of f16.
    #[test]
    fn half_precision_follows_nearly_the_same_gradient() {
        let _turn = turn();
        let config: NetworkConfig =
            toml::from_str("kind = 'unet2d'\nwidths = [4, 8]\nnorm = 'batch'").unwrap();
        let exact = open(DeviceChoice::LibTorchCpu, Precision::F32);
        let half = Compute {
            precision: Precision::F16,
            ..exact.clone()
        };
        let norms: Vec<f64> = [&exact, &half]
            .into_iter()
            .map(|compute| {
                let mut learner = learner(&config, setup(OptimiserKind::Sgd), compute);
                // The first scale may be too large for f16; it is halved until steps are taken.
                let reports = (0..12).map(|i| learner.step(&batch(2, 16), 1e-9, i).unwrap());
                let taken = reports.filter(|report| report.is_taken()).last().unwrap();
                let (state, _) = learner.state().unwrap();
                assert_eq!(
                    state.contains_key("loss_scale"),
                    compute.precision == Precision::F16
                );
                taken.gradient_norm
            })
            .collect();
        assert!((norms[0] / norms[1] - 1.0).abs() < 0.02, "{norms:?}");
    }

    #[test]
    fn recomputing_changes_no_bit_and_takes_less_memory() {
        let _turn = turn();
        let (config, batch) = large();
        let compute = open(DeviceChoice::LibTorchCpu, Precision::F32);
        let run = |recompute| {
            let setup = LearnerSetup {
                recompute,
                ..setup(OptimiserKind::Adam)
            };
            let mut learner = learner(&config, setup, &compute);
            reset_cpu_peak();
            let before = cpu_memory()[0];
            learner.step(&batch, 0.01, 1).unwrap();
            let peak = cpu_memory()[1] - before;
            (learner.weights().unwrap(), peak)
        };
        let ((kept, peak), (recomputed, smaller)) = (run(false), run(true));
        assert!(
            kept == recomputed,
            "{}",
            largest_difference(&kept, &recomputed)
        );
        assert!(smaller * 10 < peak * 8, "{smaller} of {peak} bytes");
    }

    #[test]
    fn parts_of_a_batch_give_the_gradient_of_the_whole() {
        let _turn = turn();
        let (config, batch) = large();
        let compute = open(DeviceChoice::LibTorchCpu, Precision::F32);
        let run = |micro_batches| {
            let setup = LearnerSetup {
                micro_batches,
                ..setup(OptimiserKind::Sgd)
            };
            let mut learner = learner(&config, setup, &compute);
            let report = learner.step(&batch, 0.01, 1).unwrap();
            (learner.weights().unwrap(), report)
        };
        let ((whole, one), (parts, three)) = (run(1), run(3));
        assert!((one.loss - three.loss).abs() < 1e-6, "{one:?} {three:?}");
        assert!((one.gradient_norm / three.gradient_norm - 1.0).abs() < 1e-4);
        let moved = largest_difference(&whole, &weights(&config));
        let difference = largest_difference(&whole, &parts);
        assert!(difference < 1e-3 * moved, "{difference} of {moved}");
    }

    #[test]
    fn out_of_memory_splits_a_batch_and_reports_it() {
        let _turn = turn();
        let (config, batch) = large();
        let compute = open(DeviceChoice::LibTorchCpu, Precision::F32);
        let setup = LearnerSetup {
            weight_average: Some(0.9),
            ..setup(OptimiserKind::Sgd)
        };
        let mut free = learner(&config, setup.clone(), &compute);
        reset_cpu_peak();
        let before = cpu_memory()[0];
        free.step(&batch, 0.01, 1).unwrap();
        let needed = cpu_memory()[1] - before;

        let mut tight = learner(&config, setup, &compute);
        limit_cpu_memory(cpu_memory()[0] + needed / 2);
        let report = tight.step(&batch, 0.01, 1);
        let second = tight.step(&batch, 0.01, 2);
        limit_cpu_memory(0);
        free.step(&batch, 0.01, 2).unwrap();
        let note = report.unwrap().note.unwrap();
        assert!(note.contains("at a time"), "{note}");
        assert_eq!(second.unwrap().note, None, "reported once");
        let moved = largest_difference(&free.weights().unwrap(), &weights(&config));
        let difference = largest_difference(&free.weights().unwrap(), &tight.weights().unwrap());
        assert!(difference < 1e-3 * moved, "{difference} of {moved}");
        // A retried step is averaged once.
        let [free, tight] = [free, tight].map(|learner| learner.averaged_weights().unwrap());
        let difference = largest_difference(&free, &tight);
        assert!(difference < 1e-3 * moved, "{difference} of {moved}");
    }

    #[test]
    fn a_failed_attempt_leaves_running_statistics_alone() {
        let _turn = turn();
        let config: NetworkConfig =
            toml::from_str("kind = 'unet2d'\nwidths = [16, 32]\nnorm = 'batch'").unwrap();
        // Neither three nor two fit at once: each is processed alone.
        let batch = batch(3, 192);
        let compute = open(DeviceChoice::LibTorchCpu, Precision::F32);
        let run = |micro_batches: usize, limit: Option<u64>| {
            let setup = LearnerSetup {
                micro_batches,
                ..setup(OptimiserKind::Sgd)
            };
            let mut learner = learner(&config, setup, &compute);
            reset_cpu_peak();
            let before = cpu_memory()[0];
            limit_cpu_memory(limit.map_or(0, |limit| before + limit));
            let report = learner.step(&batch, 0.01, 1);
            limit_cpu_memory(0);
            report.unwrap();
            (learner.weights().unwrap(), cpu_memory()[1] - before)
        };
        let (_, needed) = run(1, None);
        let (one_by_one, single) = run(3, None);
        assert!(single * 2 < needed, "{single} {needed}");
        let (retried, _) = run(1, Some(single + single / 8));
        assert!(
            one_by_one == retried,
            "{}",
            largest_difference(&one_by_one, &retried)
        );
    }

    #[test]
    fn out_of_memory_predicts_fewer_patches_at_once() {
        let _turn = turn();
        let (config, batch) = large();
        let compute = open(DeviceChoice::LibTorchCpu, Precision::F32);
        let network = config.init(1, 2, &compute.device).unwrap();
        let network = with_tensors(network, &weights(&config), &compute.device).unwrap();
        let inference = Inference::new(vec![network], &compute).unwrap();
        reset_cpu_peak();
        let before = cpu_memory()[0];
        let run = || inference.logits(&batch.input, batch.input_shape, None);
        let (free, shape) = run().unwrap();
        let needed = cpu_memory()[1] - before;
        limit_cpu_memory(cpu_memory()[0] + needed / 2);
        let tight = run();
        // Nothing fits into 1 MiB, which is an error.
        limit_cpu_memory(1 << 20);
        let hopeless = run();
        limit_cpu_memory(0);
        let (tight, tight_shape) = tight.unwrap();
        assert_eq!(shape, tight_shape);
        for (a, b) in free.iter().zip(tight.iter()) {
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        let error = hopeless.unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn cached_memory_stays_close_to_peak_use() {
        let _turn = turn();
        let (config, batch) = large();
        let compute = open(DeviceChoice::LibTorchCpu, Precision::Bf16);
        let mut learner = learner(&config, setup(OptimiserKind::Adam), &compute);
        for index in 0..4 {
            learner.step(&batch, 0.01, index).unwrap();
        }
        let [in_use, peak, held] = cpu_memory();
        assert!(
            peak > in_use && held <= peak + peak / 4 + (4 << 20),
            "{in_use} {peak} {held}"
        );
    }
}
