//! Layer tables against a network worked by hand, and against real networks.

use ctseg_engine::device::DeviceChoice;
use ctseg_engine::networks::NetworkConfig;
use ctseg_engine::weights::{is_trained, network_tensors};

fn config(text: &str) -> NetworkConfig {
    toml::from_str(text).unwrap()
}

// kind = unet2d, widths 4 and 8, two channels, three structures, an input of 8 × 6:
//   encoder.0.0  3·3·2·4  =  72 weights + 2·4, on 48 pixels
//   encoder.0.1  3·3·4·4  = 144 weights + 2·4, on 48
//   max_pool     4 × 4 × 3
//   encoder.1.0  3·3·4·8  = 288 weights + 2·8, on 12
//   encoder.1.1  3·3·8·8  = 576 weights + 2·8, on 12
//   up.0         8·4·2·2  = 128 weights + 4,   from 12
//   join         8 × 8 × 6
//   decoder.0.0  3·3·8·4  = 288 weights + 2·4, on 48
//   decoder.0.1  3·3·4·4  = 144 weights + 2·4, on 48
//   head         4·3      =  12 weights + 3,   on 48
#[test]
fn a_small_network_equals_the_one_worked_by_hand() {
    let cost = config("kind = 'unet2d'\nwidths = [4, 8]")
        .cost(2, 3, [5, 2, 1, 8, 6])
        .unwrap();
    assert_eq!(cost.parameters, 80 + 152 + 304 + 592 + 132 + 296 + 152 + 15);
    let multiply_adds = 48 * (72 + 144 + 288 + 144 + 12) + 12 * (288 + 576 + 128);
    assert_eq!(cost.multiply_adds, multiply_adds);
    let kept = 96 + 2 * 192 + 2 * 192 + 48 + 4 * 96 + 384 + 4 * 192 + 144;
    assert_eq!(cost.activation_bytes.f32, 4 * kept + 8 * 48);
    assert_eq!(cost.activation_bytes.bf16, 2 * kept + 8 * 48);
    let rows: Vec<(&str, &[usize])> = cost
        .layers
        .iter()
        .map(|layer| (layer.name.as_str(), layer.output.as_slice()))
        .collect();
    let expected: [(&str, &[usize]); 11] = [
        ("input", &[2, 8, 6]),
        ("encoder.0.0", &[4, 8, 6]),
        ("encoder.0.1", &[4, 8, 6]),
        ("max_pool", &[4, 4, 3]),
        ("encoder.1.0", &[8, 4, 3]),
        ("encoder.1.1", &[8, 4, 3]),
        ("up.0", &[4, 8, 6]),
        ("join", &[8, 8, 6]),
        ("decoder.0.0", &[4, 8, 6]),
        ("decoder.0.1", &[4, 8, 6]),
        ("head", &[3, 8, 6]),
    ];
    assert_eq!(rows, expected);
}

#[test]
fn parameters_are_those_of_the_networks() {
    for (text, z) in [
        ("kind = 'unet2d'\nwidths = [4, 8, 16]\ndropout = 0.1", 1),
        (
            "kind = 'unet2d'\nwidths = [4, 8]\ndownsampling = 'stride'",
            1,
        ),
        ("kind = 'unet2_5d'\nwidths = [4, 8]\nneighbours = 2", 5),
        ("kind = 'unet3d'\nwidths = [4, 8, 16]", 8),
        (
            "kind = 'unet2d'\nwidths = [4, 8]\nnorm = 'group'\ngroups = 2\nattention = true",
            1,
        ),
        (
            "kind = 'unet3d'\nwidths = [4, 8, 8, 8]\nattention = true\ndeep_supervision = true\nkernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3], [5, 1, 1]]\nstrides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]",
            4,
        ),
        ("kind = 'resenc2d'\nwidths = [4, 8, 8]\nneighbours = 1", 3),
        (
            "kind = 'resenc2d'\nwidths = [4, 8, 8]\nattention = true\nnorm = 'batch'",
            1,
        ),
        (
            "kind = 'resenc3d'\nwidths = [4, 8, 8, 8]\ndeep_supervision = true",
            8,
        ),
        (
            "kind = 'unet3d'\nwidths = [4, 8]\nnorm = 'batch'\ndownsampling = 'pool'",
            4,
        ),
    ] {
        let config = config(text);
        let cost = config.cost(2, 3, [1, 2, z, 16, 8]).unwrap();
        let device = DeviceChoice::Auto.device().unwrap();
        let tensors = network_tensors(&config.init(2, 3, &device).unwrap()).unwrap();
        let trained = tensors.iter().filter(|(name, _)| is_trained(name));
        let parameters: usize = trained.map(|(_, tensor)| tensor.values.len()).sum();
        assert_eq!(cost.parameters, parameters as u64, "{text}");
        assert_eq!(config.parameters(2, 3).unwrap(), cost.parameters, "{text}");
        // Every layer with weights appears once.
        for name in tensors.keys().filter(|name| name.ends_with("weight")) {
            let count = cost.layers.iter().filter(|layer| {
                !layer.name.is_empty() && name.starts_with(&format!("{}.", layer.name))
            });
            assert_eq!(count.count(), 1, "{text}: {name}");
        }
        assert_eq!(cost.layers.last().unwrap().output[0], 3);
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_in_one_line() {
    let config = config("kind = 'unet3d'\nwidths = [4, 8, 16]");
    for shape in [[1, 2, 8, 8, 6], [1, 3, 8, 8, 8], [1, 2, 0, 8, 8]] {
        let error = config.cost(2, 1, shape).unwrap_err().to_string();
        assert!(error.contains("unet3d") && !error.contains('\n'), "{error}");
    }
}

/// Without AVX-512, oneDNN does not compute in bf16, and the fallback needs more memory.
#[cfg(feature = "libtorch")]
fn has_bf16() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::arch::is_x86_feature_detected!("avx512bw");
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has
}

#[cfg(feature = "libtorch")]
#[test]
fn the_memory_of_a_training_step_matches_the_estimate() {
    use ctseg_engine::batch::Batch;
    use ctseg_engine::device::Compute;
    use ctseg_engine::learner::LearnerSetup;
    use ctseg_engine::libtorch::{cpu_memory, reset_cpu_peak};
    use ctseg_engine::losses::Loss;
    use ctseg_engine::optim::OptimiserConfig;
    use ctseg_engine::precision::{Precision, PrecisionChoice};

    for (text, [z, y, x]) in [
        ("kind = 'unet2d'\nwidths = [16, 32, 64]", [1, 256, 256]),
        ("kind = 'unet3d'\nwidths = [16, 32, 64]", [32, 64, 64]),
        (
            "kind = 'resenc3d'\nwidths = [16, 32, 64]\nblocks = [1, 2, 2]\nattention = true\ndeep_supervision = true",
            [32, 64, 64],
        ),
    ] {
        for precision in [Precision::F32, Precision::Bf16] {
            if precision == Precision::Bf16 && !has_bf16() {
                continue;
            }
            let choice = PrecisionChoice::Fixed(precision);
            let compute = Compute::open(DeviceChoice::LibTorchCpu, choice, 1).unwrap();
            let config = config(text);
            let cost = config.cost(1, 3, [2, 1, z, y, x]).unwrap();
            let network = config.init(1, 3, &compute.device).unwrap();
            let setup = LearnerSetup {
                loss: Loss::default(),
                optimiser: OptimiserConfig::default(),
                recompute: false,
                micro_batches: 1,
                weight_average: None,
                frozen_levels: 0,
                sync_norms: false,
                group: Default::default(),
            };
            let mut learner = compute.learner(network, setup).unwrap();
            let voxels = 2 * z * y * x;
            let batch = Batch {
                input: (0..voxels).map(|i| (i as f32 * 0.1).sin()).collect(),
                input_shape: [2, 1, z, y, x],
                targets: vec![0.0; 3 * voxels],
                targets_shape: [2, 3, z, y, x],
                distances: None,
                whole: 2,
            };
            learner.step(&batch, 1e-3, 1).unwrap();
            reset_cpu_peak();
            learner.step(&batch, 1e-3, 2).unwrap();
            let [_, peak, _] = cpu_memory();
            let estimate = cost.training_bytes(2, precision);
            let ratio = peak as f64 / estimate as f64;
            println!("{precision} {text}: {peak} measured, {estimate} estimated, ratio {ratio:.2}");
            assert!((0.8..1.05).contains(&ratio), "{precision} {text}: {ratio}");
        }
    }
}
