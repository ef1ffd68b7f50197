//! Every kind of network on every engine of the build: training, inference, and saved weights.

use crate::learners::{engines, open, setup};
use ctseg_engine::batch::Batch;
use ctseg_engine::inference::Inference;
use ctseg_engine::networks::NetworkConfig;
use ctseg_engine::optim::OptimiserKind;
use ctseg_engine::precision::Precision;
use ctseg_engine::weights::{
    NamedTensors, is_trained, network_tensors, read_tensors, with_tensors, write_tensors,
};

/// Network recipes, and the number of slices in their inputs.
const NETWORKS: [(&str, usize); 9] = [
    ("kind = 'unet2d'\nwidths = [4, 8, 8]\nattention = true", 1),
    (
        "kind = 'unet2d'\nwidths = [4, 8, 8, 8]\nnorm = 'group'\ngroups = 2\ndeep_supervision = true",
        1,
    ),
    (
        "kind = 'unet2_5d'\nwidths = [4, 8, 8, 8]\nneighbours = 1\nattention = true\ndeep_supervision = true",
        3,
    ),
    (
        "kind = 'unet2d'\nwidths = [4, 8]\nkernels = [[1, 3], [5, 3]]\nstrides = [[1, 1], [4, 2]]",
        1,
    ),
    ("kind = 'unet3d'\nwidths = [4, 8, 8]\nattention = true", 4),
    (
        "kind = 'unet3d'\nwidths = [4, 8, 8]\nnorm = 'batch'\ndownsampling = 'pool'\nkernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]\nstrides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]",
        2,
    ),
    (
        "kind = 'resenc2d'\nwidths = [4, 8, 8]\nneighbours = 1\nnorm = 'batch'\ndropout = 0.1",
        3,
    ),
    (
        "kind = 'resenc3d'\nwidths = [4, 8, 8, 8]\nblocks = [1, 2, 1, 1]\nstrides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]\ndeep_supervision = true",
        4,
    ),
    (
        "kind = 'resenc3d'\nwidths = [4, 8]\nnorm = 'group'\ngroups = 4\nattention = true",
        2,
    ),
];

fn config(text: &str) -> NetworkConfig {
    toml::from_str(text).unwrap()
}

/// A bright ball among waves; two structures, of which the second is its upper half.
fn batch(config: &NetworkConfig, slices: usize) -> Batch {
    const SIDE: usize = 16;
    let marked = if config.dimensions() == 2 { 1 } else { slices };
    let (mut input, mut targets) = (Vec::new(), Vec::new());
    for sample in 0..2 {
        let inside = |y: usize, x: usize| {
            let (y, x) = (y as f32 - 6.0 - sample as f32, x as f32 - 8.0);
            y * y + x * x < 16.0
        };
        let pixels = || (0..SIDE * SIDE).map(|at| (at / SIDE, at % SIDE));
        for z in 0..slices {
            input.extend(pixels().map(|(y, x)| {
                let noise = ((y * 7 + x * 3 + z) as f32).sin() * 0.3;
                noise + f32::from(u8::from(inside(y, x)))
            }));
        }
        for upper in [false, true] {
            for _ in 0..marked {
                targets.extend(
                    pixels().map(|(y, x)| f32::from(u8::from(inside(y, x) && (!upper || y < 6)))),
                );
            }
        }
    }
    Batch {
        input,
        input_shape: [2, 1, slices, SIDE, SIDE],
        targets,
        targets_shape: [2, 2, marked, SIDE, SIDE],
        distances: None,
        whole: 2,
    }
}

#[test]
fn every_network_trains_and_predicts_on_every_engine() {
    for (text, slices) in NETWORKS {
        let config = config(text);
        let batch = batch(&config, slices);
        for engine in engines() {
            let compute = open(engine, Precision::F32);
            compute.device.seed(3);
            let network = config.init(1, 2, &compute.device).unwrap();
            let mut learner = compute
                .learner(network, setup(OptimiserKind::Adam))
                .unwrap();
            let losses: Vec<f64> = (0..12)
                .map(|index| {
                    let report = learner.step(&batch, 0.01, index).unwrap();
                    assert!(report.is_taken(), "{engine} {text}");
                    report.loss
                })
                .collect();
            assert!(losses[11] < 0.95 * losses[0], "{engine} {text}: {losses:?}");
            let used = Inference::new(vec![learner.network().unwrap()], &compute).unwrap();
            let (logits, shape) = used.logits(&batch.input, batch.input_shape, None).unwrap();
            assert_eq!(shape, batch.targets_shape, "{engine} {text}");
            assert!(logits.iter().all(|v| v.is_finite()));
            assert!(logits.iter().any(|v| *v > logits[0]));
        }
    }
}

/// Largest difference, relative to the largest value.
fn relative_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(1e-6f32, |most, v| most.max(v.abs()));
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max) / largest
}

#[test]
fn weights_survive_the_file_folding_averaging_and_the_change_of_engine() {
    let folder = tempfile::tempdir().unwrap();
    for (text, slices) in NETWORKS {
        let config = config(text);
        let batch = batch(&config, slices);
        let mut found: Vec<(Vec<f32>, Vec<f32>)> = Vec::new();
        let path = folder.path().join("weights.safetensors");
        for (index, engine) in engines().into_iter().enumerate() {
            let compute = open(engine, Precision::F32);
            if index == 0 {
                // Trained on the first engine, used on all; running statistics other than 0 and 1.
                compute.device.seed(5);
                let network = config.init(1, 2, &compute.device).unwrap();
                let mut setup = setup(OptimiserKind::Adam);
                setup.weight_average = Some(0.5);
                let mut learner = compute.learner(network, setup).unwrap();
                for step in 0..3 {
                    learner.step(&batch, 0.01, step).unwrap();
                }
                let (last, mean) = (learner.weights(), learner.averaged_weights());
                let (last, mean) = (last.unwrap(), mean.unwrap());
                assert!(last.keys().eq(mean.keys()));
                let moved = last.iter().filter(|(name, tensor)| **tensor != mean[*name]);
                assert_eq!(
                    moved.count(),
                    last.len(),
                    "{text}: an average of every tensor"
                );
                write_tensors(&path, &mean, "").unwrap();
            }
            let (saved, _) = read_tensors(&path).unwrap();
            let network = config.init(1, 2, &compute.device).unwrap();
            let loaded = with_tensors(network, &saved, &compute.device).unwrap();
            assert_eq!(network_tensors(&loaded).unwrap(), saved, "{engine} {text}");
            assert!(saved.keys().any(|name| is_trained(name)));
            // Without folding, in Burn's operations.
            let input = burn::tensor::TensorData::new(batch.input.clone(), batch.input_shape);
            let input = burn::tensor::Tensor::<5>::from_data(input, &compute.device);
            let plain = loaded.forward(input).unwrap().into_data();
            let used = Inference::new(vec![loaded], &compute).unwrap();
            let (folded, _) = used.logits(&batch.input, batch.input_shape, None).unwrap();
            found.push((plain.try_into_vec::<f32>().unwrap(), folded.into_vec()));
        }
        for (plain, folded) in &found {
            assert!(relative_difference(plain, &found[0].0) < 2e-4, "{text}");
            assert!(relative_difference(folded, &found[0].0) < 2e-4, "{text}");
        }
    }
}

#[test]
fn attention_maps_lie_on_the_inputs_grid_and_agree_between_engines() {
    for (text, slices) in NETWORKS {
        let config = config(text);
        let batch = batch(&config, slices);
        let mut found: Vec<Vec<f32>> = Vec::new();
        let mut weights = None; // the first engine's for all: each draws others
        for engine in engines() {
            let compute = open(engine, Precision::F32);
            let network = config.init(1, 2, &compute.device).unwrap();
            let mut tensors = network_tensors(&network).unwrap();
            for (index, tensor) in tensors.values_mut().enumerate() {
                for (i, value) in tensor.values.iter_mut().enumerate() {
                    *value += 0.1 * ((i + index) as f32 * 1.618).sin();
                }
            }
            let tensors: &NamedTensors = weights.get_or_insert(tensors);
            let network = with_tensors(network, tensors, &compute.device).unwrap();
            let used = Inference::new(vec![network.clone(), network], &compute).unwrap();
            if !text.contains("attention") {
                let error = used.with_attention_maps().err().unwrap().to_string();
                assert!(error.contains("network.attention"), "{error}");
                continue;
            }
            let gates = config.unet().unwrap().widths.len() - 1;
            let seen = used.with_attention_maps().unwrap();
            let (maps, shape) = seen.logits(&batch.input, batch.input_shape, None).unwrap();
            let [patches, _, z, y, x] = batch.targets_shape;
            assert_eq!(shape, [patches, gates, z, y, x], "{engine} {text}");
            assert!(maps.iter().all(|v| (0.0..=1.0).contains(v)));
            assert!(maps.iter().any(|v| (v - maps[0]).abs() > 1e-3), "{text}");
            found.push(maps.into_vec());
        }
        for maps in &found {
            assert!(relative_difference(maps, &found[0]) < 1e-4, "{text}");
        }
    }
}

#[test]
fn invalid_settings_are_named_in_one_line() {
    let device = ctseg_engine::device::DeviceChoice::Auto.device().unwrap();
    for (text, expected) in [
        ("kind = 'unet2d'\nwidths = [4]", "network.widths"),
        ("kind = 'unet2d'\nkernels = [[3, 3]]", "network.kernels"),
        (
            "kind = 'unet2d'\nwidths = [4, 8]\nkernels = [[3, 3], [2, 3]]",
            "odd",
        ),
        (
            "kind = 'unet3d'\nwidths = [4, 8]\nstrides = [[1, 1], [2, 2]]",
            "network.strides",
        ),
        (
            "kind = 'unet2d'\nwidths = [4, 8]\nstrides = [[2, 2], [2, 2]]",
            "the first of 1s",
        ),
        (
            "kind = 'unet2d'\nwidths = [4, 6]\nnorm = 'group'",
            "network.groups = 8",
        ),
        ("kind = 'unet2d'\ngroups = 4", "norm = \"group\""),
        ("kind = 'unet3d'\nblocks = [1, 1]", "network.blocks"),
        (
            "kind = 'resenc3d'\nwidths = [4, 8]\nblocks = [1]",
            "network.blocks = [1]",
        ),
        (
            "kind = 'resenc2d'\ndownsampling = 'pool'",
            "network.downsampling",
        ),
        ("kind = 'resenc3d'\nneighbours = 1", "network.neighbours"),
        ("kind = 'resenc2d'\nneighbours = 17", "network.neighbours"),
    ] {
        let error = config(text).init(1, 1, &device).unwrap_err().to_string();
        assert!(
            error.contains(expected) && !error.contains('\n'),
            "{text}: {error}"
        );
    }
}

#[test]
fn deep_supervision_with_micro_batches_has_the_same_gradient() {
    let config = config(
        "kind = 'unet2d'\nwidths = [4, 8, 8, 8]\nnorm = 'instance'\ndeep_supervision = true",
    );
    let batch = batch(&config, 1);
    let mut found = Vec::new();
    for engine in engines() {
        let compute = open(engine, Precision::F32);
        for (micro_batches, recompute) in [(1, false), (2, false), (2, true)] {
            let mut setup = setup(OptimiserKind::Sgd);
            setup.micro_batches = micro_batches;
            setup.recompute = recompute;
            let network = config.init(1, 2, &compute.device).unwrap();
            assert_eq!(network.scales(), 2);
            let mut tensors = network_tensors(&network).unwrap();
            for (index, tensor) in tensors.values_mut().enumerate() {
                for (i, value) in tensor.values.iter_mut().enumerate() {
                    *value = 0.3 * ((i + index) as f32 * 1.618).sin();
                }
            }
            let network = with_tensors(network, &tensors, &compute.device).unwrap();
            let mut learner = compute.learner(network, setup).unwrap();
            let report = learner.step(&batch, 0.1, 1).unwrap();
            let after = learner.weights().unwrap();
            let head = "heads.0.weight";
            assert_ne!(
                after[head], tensors[head],
                "{engine}: the coarser head learns"
            );
            found.push((
                report.loss,
                report.gradient_norm,
                after[head].values.clone(),
            ));
        }
    }
    for (loss, norm, head) in &found {
        assert!((loss / found[0].0 - 1.0).abs() < 1e-5, "{found:?}");
        assert!((norm / found[0].1 - 1.0).abs() < 1e-4, "{found:?}");
        assert!(relative_difference(head, &found[0].2) < 1e-4);
    }
}
