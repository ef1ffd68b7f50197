//! Sliding-window output plane by plane: logits, labels and probabilities do not depend on the chunk size.

use crate::common;

use crate::common::{compute, phantoms, publish_random, small_recipe};
use ctseg_base::{Error, Result};
use ctseg_core::inference::cascade::Cascade;
use ctseg_core::inference::export_logits::ProbabilitySink;
use ctseg_core::inference::sliding_window::{Planes, best_axis};
use ctseg_core::inference::stage::Stage;
use ctseg_core::inference::test_time_augmentation::Mirroring;
use ctseg_core::model::bundle::Bundle;
use ctseg_engine::device::{Compute, DeviceChoice};
use ctseg_engine::inference::Inference;
use ctseg_engine::precision::{Precision, PrecisionChoice};
use ctseg_image::nifti::read_volume;
use ctseg_image::resample::{Interpolation, resample};
use ctseg_image::space::{LabelMap, Orientation, Volume, VoxelBox};
use ndarray::{Array3, Array4, Array5, ArrayView3, ArrayView4, Axis, s};

/// A stage for volumes with `structures` maps and `folds` networks, its inference, and an input.
fn on_volumes(structures: usize, folds: usize) -> (Stage, Inference, Array4<f32>) {
    let set = [
        "region=whole",
        "prior=false",
        "training.patch_size=[8, 8, 8]",
        "training.batch_size=2",
    ];
    let recipe = small_recipe("refine", &set);
    let exact = PrecisionChoice::Fixed(Precision::F32);
    let compute = Compute::open(DeviceChoice::Auto, exact, 2).unwrap();
    compute.device.seed(4);
    let channels = recipe.channels();
    let networks: Vec<_> = (0..folds)
        .map(|_| {
            recipe
                .network
                .init(channels, structures, &compute.device)
                .unwrap()
        })
        .collect();
    let input = Array4::from_shape_fn((channels, 11, 17, 13), |(c, z, y, x)| {
        ((3 * c + 2 * z + 5 * y + 7 * x) % 11) as f32 / 11.0
    });
    let alone = Inference::new(networks.clone(), &compute).unwrap();
    (
        Stage::new(recipe, networks, &compute).unwrap(),
        alone,
        input,
    )
}

/// Every patch separately, in f64: weighted by its Gaussian, divided by the sum of the Gaussians.
fn by_hand(inference: &Inference, input: ArrayView4<f32>, structures: usize) -> Array4<f64> {
    let gaussian = |i: usize| (-0.5 * ((i as f64 - 4.0) / 1.0).powi(2)).exp();
    let mut sum = Array4::<f64>::zeros((structures, 11, 17, 13));
    let mut weight = Array3::<f64>::zeros((11, 17, 13));
    for z in [0, 3] {
        // round(9 / 3 · i), round(5 / 2 · i) with halves to even
        for y in [0, 3, 6, 9] {
            for x in [0, 2, 5] {
                let patch = input.slice(s![.., z..z + 8, y..y + 8, x..x + 8]);
                let patch: Vec<f32> = patch.iter().copied().collect();
                let shape = [1, input.dim().0, 8, 8, 8];
                let (values, shape) = inference.logits(&patch, shape, None).unwrap();
                let logits = Array5::from_shape_vec(shape, values.into_vec()).unwrap();
                for ((_, map, dz, dy, dx), value) in logits.indexed_iter() {
                    let factor = gaussian(dz) * gaussian(dy) * gaussian(dx);
                    sum[[map, z + dz, y + dy, x + dx]] += factor * f64::from(*value);
                    if map == 0 {
                        weight[[z + dz, y + dy, x + dx]] += factor;
                    }
                }
            }
        }
    }
    sum / weight.insert_axis(Axis(0))
}

#[test]
fn planes_of_patches_match_the_whole_input() {
    // With 40 structures, the 4 features of the last level are accumulated instead, but not with two networks.
    for (structures, folds) in [(2, 1), (40, 1), (40, 2)] {
        let (stage, alone, input) = on_volumes(structures, folds);
        assert_eq!(
            alone.with_features().unwrap().is_some(),
            (structures, folds) == (40, 1)
        );
        let expected = by_hand(&alone, input.view(), structures);
        let none = Mirroring::none();
        for axis in [0, 1] {
            for at_once in [1, 4, 11] {
                let pass = stage.pass(input.view(), &none, &|_| Ok(()));
                let mut planes = Planes::new(pass, axis).unwrap();
                let length = planes.count();
                for start in (0..length).step_by(at_once) {
                    // One plane twice, as at the boundary of two chunks.
                    let range = start.saturating_sub(1)..(start + at_once).min(length);
                    let found = planes.take(range.clone()).unwrap();
                    let expected = expected.slice_axis(Axis(axis + 1), range.into());
                    assert_eq!(found.shape(), expected.shape());
                    let difference = found.iter().zip(&expected);
                    let difference = difference.map(|(a, b)| (f64::from(*a) - b).abs());
                    let difference = difference.fold(0.0, f64::max);
                    assert!(
                        difference < 2e-5,
                        "{structures} structures, axis {axis}: {difference}"
                    );
                }
                let gone = planes.take(0..1).is_err();
                assert_eq!(gone, at_once < length, "the first planes");
            }
        }
        let whole = stage.logits(input.view(), &|_| Ok(())).unwrap();
        let difference = whole.iter().zip(&expected);
        let difference = difference.map(|(a, b)| (f64::from(*a) - b).abs());
        assert!(difference.fold(0.0, f64::max) < 2e-5);
    }
}

#[test]
fn step_and_blending_come_from_the_recipe() {
    let set = [
        "region=whole",
        "prior=false",
        "training.patch_size=[8, 8, 8]",
        "sliding.step=1.0",
        "sliding.blending=constant",
    ];
    let recipe = small_recipe("refine", &set);
    let compute = compute();
    compute.device.seed(4);
    let channels = recipe.channels();
    let network = recipe.network.init(channels, 2, &compute.device).unwrap();
    let alone = Inference::new(vec![network.clone()], &compute).unwrap();
    let input = Array4::from_shape_fn((channels, 8, 8, 12), |(c, z, y, x)| {
        ((3 * c + 2 * z + 5 * y + 7 * x) % 11) as f32 / 11.0
    });
    let stage = Stage::new(recipe, vec![network], &compute).unwrap();
    assert_eq!(stage.pieces([8, 8, 12]), 2);
    let found = stage.logits(input.view(), &|_| Ok(())).unwrap();
    let patch = |x: usize| {
        let patch = input.slice(s![.., .., .., x..x + 8]);
        let patch: Vec<f32> = patch.iter().copied().collect();
        let (values, shape) = alone.logits(&patch, [1, channels, 8, 8, 8], None).unwrap();
        Array5::from_shape_vec(shape, values.into_vec()).unwrap()
    };
    let (left, right) = (patch(0), patch(4));
    for ((map, z, y, x), value) in found.indexed_iter() {
        let expected = match x {
            0..4 => left[[0, map, z, y, x]],
            4..8 => (left[[0, map, z, y, x]] + right[[0, map, z, y, x - 4]]) / 2.0,
            _ => right[[0, map, z, y, x - 4]],
        };
        assert!((value - expected).abs() < 1e-5, "{x}: {value} {expected}");
    }
    let wrong = ["sliding.step=1e-300".to_owned()];
    let error = ctseg_core::recipe::Recipe::named("refine", &wrong).unwrap_err();
    assert!(error.to_string().contains("sliding.step"), "{error}");
}

#[test]
fn streaming_along_the_longer_axis_takes_less_memory() {
    let (stage, _, _) = on_volumes(2, 1);
    assert_eq!(best_axis(&stage.recipe, [11, 17, 13]), 1);
    assert_eq!(best_axis(&stage.recipe, [40, 17, 13]), 0);
    let slices = small_recipe("single", &[]);
    assert_eq!(best_axis(&slices, [3, 100, 100]), 0);
}

#[test]
fn an_error_in_the_callback_stops_inference() {
    let (stage, _, input) = on_volumes(2, 1);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let error = stage
        .logits(input.view(), &|pieces| match count
            .fetch_add(pieces, std::sync::atomic::Ordering::Relaxed)
        {
            0..6 => Ok(()),
            _ => Err(Error::Interrupted("enough".to_owned())),
        })
        .unwrap_err();
    assert!(error.to_string().contains("enough"), "{error}");
    assert!(count.into_inner() < stage.pieces([11, 17, 13]));
}

/// Collects the probabilities.
struct Collected(Array4<f32>);

impl ProbabilitySink for Collected {
    fn put(&mut self, structure: usize, region: &VoxelBox, values: ArrayView3<f32>) -> Result<()> {
        let [x, y, z] = [0, 1, 2].map(|axis| region.start[axis]..region.end[axis]);
        let mut to = self.0.index_axis_mut(Axis(0), structure);
        to.slice_mut(s![z, y, x]).assign(&values);
        Ok(())
    }
}

/// The label map and the probabilities of a volume.
fn segmented(cascade: Cascade, volume: &Volume) -> (LabelMap, Array4<f32>) {
    let [z, y, x] = volume.grid.shape_zyx();
    let mut collected = Collected(Array4::zeros((2, z, y, x)));
    let (labels, _) = cascade
        .segment_with_probabilities(volume, &|_, _| Ok(()), vec![&mut collected])
        .unwrap();
    (labels, collected.0)
}

/// A voxel is labelled where the probability is above one half or, for exclusive classes, above the background's.
fn assert_most_probable(labels: &LabelMap, probabilities: &Array4<f32>, exclusive: bool) {
    for ((z, y, x), label) in labels.data.indexed_iter() {
        let [a, b] = [0, 1].map(|map| probabilities[[map, z, y, x]]);
        let rest = match exclusive {
            true => 1.0 - a - b,
            false => 0.5,
        };
        let expected = match (a.max(b) - rest, a >= b) {
            (margin, _) if margin.abs() < 1e-6 || (a - b).abs() < 1e-6 => *label,
            (margin, _) if margin < 0.0 => 0,
            (_, true) => 1,
            (_, false) => 300,
        };
        assert_eq!(*label, expected, "{a} {b} {rest}");
    }
}

#[test]
fn labels_and_probabilities_do_not_depend_on_chunks_or_orientation() {
    let folder = tempfile::tempdir().unwrap();
    phantoms(folder.path(), 1, 0);
    let image = folder.path().join("images/phantom_000.nii.gz");
    let volume = read_volume(&image).unwrap().volume;
    for outputs in ["independent", "exclusive"] {
        for stage in ["single", "refine"] {
            let model = folder.path().join(format!("{outputs}-{stage}"));
            let outputs = format!("outputs={outputs}");
            let loss = match outputs.ends_with("exclusive") {
                true => "training.loss=ce_dice",
                false => "training.loss=bce_dice",
            };
            let mut set = vec![
                "spacing_mm=[9.0, 8.0, 7.0]",
                "train_folds=[0]",
                &outputs,
                loss,
            ];
            if stage == "refine" {
                set.extend([
                    "region=whole",
                    "prior=false",
                    "training.patch_size=[8, 8, 8]",
                ]);
            }
            publish_random(&model, &small_recipe(stage, &set), &[&[]]);
            let load = || Cascade::load(&Bundle::open(&model).unwrap(), &compute()).unwrap();
            let (labels, probabilities) = segmented(load().with_chunk_planes(1000), &volume);
            assert!(labels.data.iter().any(|label| *label > 0));
            assert_most_probable(&labels, &probabilities, outputs.ends_with("exclusive"));
            let (chunked, others) = segmented(load().with_chunk_planes(1), &volume);
            assert!(chunked.data == labels.data, "{stage}");
            let difference = others
                .iter()
                .zip(&probabilities)
                .map(|(a, b)| (a - b).abs());
            assert!(difference.fold(0.0, f32::max) < 1e-5);
            // Reoriented so that the streaming axis is another axis of the file, reversed.
            let turned = volume
                .grid
                .reoriented("AIL".parse::<Orientation>().unwrap());
            let reoriented = resample(&volume, &turned, Interpolation::Nearest).unwrap();
            let (found, _) = segmented(load().with_chunk_planes(2), &reoriented);
            let back = Volume {
                grid: found.grid,
                data: found.data.mapv(f32::from),
            };
            let back = resample(&back, &volume.grid, Interpolation::Nearest).unwrap();
            let same = back.data.iter().zip(&labels.data);
            let same = same.filter(|(a, b)| **a == f32::from(**b)).count();
            assert!(same as f64 / labels.data.len() as f64 > 0.999);
        }
    }
}

/// Compares probabilities, read with nibabel and NumPy, with each other and with the label map.
const SAVED: &str = r#"
import sys, numpy as np, nibabel as nib
labels, maps, array = nib.load(sys.argv[1]), nib.load(sys.argv[2]), np.load(sys.argv[3])
assert maps.get_data_dtype() == np.uint8 and array.dtype == np.float16, (maps.get_data_dtype(), array.dtype)
assert maps.shape == labels.shape + (2,) and np.array_equal(maps.affine, labels.affine)
u8, f16 = maps.get_fdata(), array.astype(float).transpose(3, 2, 1, 0)
assert np.abs(u8 - f16).max() < 0.5 / 255 + 6e-4, np.abs(u8 - f16).max()
labels = np.asarray(labels.dataobj)
largest = f16.max(axis=-1)
sure = np.abs(largest - 0.5) > 1e-3
assert sure.mean() > 0.5
assert np.array_equal((labels > 0)[sure], (largest > 0.5)[sure])
print("equal")
"#;

#[test]
fn saved_probabilities_match_the_label_map() {
    let Ok(python) = std::env::var("CTSEG_TEST_PYTHON") else {
        println!("skipped: CTSEG_TEST_PYTHON names no Python with nibabel");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    common::random_model(&here.join("model"), &["roi.threshold=0.5"]);
    phantoms(&here.join("data"), 1, 0);
    let image = "data/images/phantom_000.nii.gz";
    let predict = |more: &[&str]| {
        let arguments = ["predict", image, "-o", "out", "--json"];
        common::run(here, &[&arguments[..], more].concat(), 0)
    };
    predict(&["--save-probabilities"]);
    predict(&["--save-probabilities=f16"]);
    let out = here.join("out");
    let files = [
        "phantom_000.nii.gz",
        "phantom_000_probabilities.nii.gz",
        "phantom_000_probabilities.npy",
    ];
    let output = std::process::Command::new(python)
        .args(["-c", SAVED])
        .args(files.map(|name| out.join(name)))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Valid outputs are kept; missing ones are written again.
    let kept = |output: &std::process::Output| {
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        summary["kept"].as_array().unwrap().len()
    };
    assert_eq!(kept(&predict(&["--save-probabilities=f16"])), 1);
    std::fs::remove_file(out.join(files[1])).unwrap();
    assert_eq!(kept(&predict(&["--save-probabilities"])), 0);
    assert!(out.join(files[1]).exists());
}
