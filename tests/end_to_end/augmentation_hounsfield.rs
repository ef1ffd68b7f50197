//! Augmentation in Hounsfield units before windowing (shifts, metal), and coarse dropout.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;

use ctseg_augment::{Augmentation, Hounsfield, SliceCrop, SliceSource, VolumeCrop, VolumeSource};
use ctseg_base::progress::Silent;
use ctseg_core::dataset::Dataset;
use ctseg_core::dataset::generated::slices::SliceSet;
use ctseg_core::recipe::Recipe;
use ctseg_image::preprocess::channels::Window;
use ctseg_image::preprocess::normalisation::Scaling;
use ctseg_train::data::case_source::CaseSource;
use ctseg_train::data::sampler::send_epoch;
use ndarray::{Array2, Array3, Array4, Axis, s};

const WINDOWS: [[f32; 2]; 2] = [[-160.0, 240.0], [-200.0, 1200.0]];
const LOWEST: f32 = -1200.0;

fn windows() -> Vec<Window> {
    WINDOWS.map(Window::from).to_vec()
}

fn scalings() -> Vec<Scaling> {
    let scaling = |window: Window| Scaling {
        window,
        mean_hu: window.low_hu,
        sd_hu: window.high_hu - window.low_hu,
    };
    windows().into_iter().map(scaling).collect()
}

/// Hounsfield units from −500 to 1500, their windowed channels with a prior, and labels.
fn volume(shape: [usize; 3]) -> (Array3<f32>, Array4<f32>, Array3<u16>) {
    let hu = Array3::from_shape_fn(shape, |(z, y, x)| {
        ((z * 131 + y * 37 + x * 53) % 2001) as f32 - 500.0
    });
    let [z, y, x] = shape;
    let mut channels = Array4::from_elem((3, z, y, x), 0.25);
    for (window, mut channel) in windows().iter().zip(channels.outer_iter_mut()) {
        channel.assign(&hu.mapv(|hu| window.scaled(hu)));
    }
    let labels = hu.mapv(|hu| u16::from(hu > 300.0));
    (hu, channels, labels)
}

fn augmented_patch(augmentation: &Augmentation, seed: u64) -> (Array4<f32>, Array3<u16>) {
    let shape = [12, 40, 44];
    let (hu, channels, labels) = volume(shape);
    let above = hu.mapv(|hu| hu - LOWEST);
    let hounsfield = Hounsfield {
        above: above.view(),
        zero_hu: LOWEST,
    };
    let cut = VolumeCrop {
        corner: [0; 3],
        size: shape,
        spacing_mm: [3.0, 1.0, 1.0],
        image_channels: 2,
    };
    let source = VolumeSource {
        channels: channels.view(),
        labels: labels.view(),
        hu: Some(hounsfield),
        scalings: &scalings(),
    };
    let mut patch = Array4::zeros(channels.dim());
    let mut marked = Array3::zeros(shape);
    augmentation.fill_volume(&cut, seed, &source, (patch.view_mut(), marked.view_mut()));
    (patch, marked)
}

fn shift_augmentation(low: f64, high: f64) -> Augmentation {
    Augmentation {
        hu_shift_probability: 1.0,
        hu_shift: [low, high],
        ..Augmentation::none()
    }
}

#[test]
fn a_shift_is_applied_before_windowing() {
    let (hu, channels, labels) = volume([12, 40, 44]);
    for shift in [-150.0f32, 60.0, 300.0] {
        let (patch, marked) =
            augmented_patch(&shift_augmentation(f64::from(shift), f64::from(shift)), 3);
        for (channel, window) in windows().iter().enumerate() {
            let expected = hu.mapv(|hu| window.scaled(hu + shift));
            let found = patch.index_axis(Axis(0), channel);
            let difference = (&found - &expected).mapv(f32::abs);
            assert!(difference.iter().all(|v| *v < 1e-6), "{shift} {window:?}");
            // Shifting the windowed channel gives another result.
            let width = window.high_hu - window.low_hu;
            let from_channel = channels.index_axis(Axis(0), channel);
            let from_channel = from_channel.mapv(|v| (v + shift / width).clamp(0.0, 1.0));
            assert!((&found - &from_channel).iter().any(|v| v.abs() > 0.03));
        }
        assert_eq!(
            patch.index_axis(Axis(0), 2),
            channels.index_axis(Axis(0), 2)
        );
        assert_eq!(marked, labels);
    }
}

#[test]
fn shifts_follow_their_range_and_probability() {
    let mut augmentation = shift_augmentation(-40.0, 40.0);
    augmentation.hu_shift_probability = 0.4;
    let (hu, channels, _) = volume([12, 40, 44]);
    let at = hu
        .iter()
        .position(|hu| (*hu - 500.0).abs() < 100.0)
        .unwrap();
    let original = channels
        .index_axis(Axis(0), 1)
        .iter()
        .nth(at)
        .copied()
        .unwrap();
    let mut shifts = Vec::new();
    for seed in 0..300 {
        let (patch, _) = augmented_patch(&augmentation, seed);
        let value = patch
            .index_axis(Axis(0), 1)
            .iter()
            .nth(at)
            .copied()
            .unwrap();
        if value != original {
            shifts.push((value - original) * 1400.0);
        }
    }
    // 120 expected, standard deviation 8.5.
    assert!((78..162).contains(&shifts.len()), "{}", shifts.len());
    assert!(shifts.iter().all(|v| v.abs() < 40.1));
    assert!(shifts.iter().any(|v| *v > 25.0) && shifts.iter().any(|v| *v < -25.0));
}

#[test]
fn metal_is_dense_and_changes_only_image_channels() {
    let metal = Augmentation {
        metal_probability: 1.0,
        ..Augmentation::none()
    };
    let (_, channels, labels) = volume([12, 40, 44]);
    for seed in 0..8 {
        let (patch, marked) = augmented_patch(&metal, seed);
        assert_eq!(
            (&patch, &marked),
            (&augmented_patch(&metal, seed).0, &labels)
        );
        assert_ne!(patch, augmented_patch(&metal, seed + 100).0);
        assert_eq!(
            patch.index_axis(Axis(0), 2),
            channels.index_axis(Axis(0), 2)
        );
        let bone = &patch.index_axis(Axis(0), 1) - &channels.index_axis(Axis(0), 1);
        let brighter = bone.iter().filter(|v| **v > 0.05).count();
        let darker = bone.iter().filter(|v| **v < -0.05).count();
        assert!(brighter > 30 && darker > 30, "{seed}: {brighter} {darker}");
        let dense = patch.indexed_iter().any(|((channel, z, y, x), now)| {
            channel == 1 && *now == 1.0 && channels[[1, z, y, x]] < 0.9
        });
        assert!(dense);
        assert!(patch.iter().all(|v| (0.0..=1.0).contains(v)));
    }
}

#[test]
fn patches_are_unchanged_without_hounsfield_units_or_augmentation() {
    let (_, channels, labels) = volume([12, 40, 44]);
    assert_eq!(
        augmented_patch(&Augmentation::none(), 1),
        (channels.clone(), labels.clone())
    );
    assert_eq!(Augmentation::none().max_hu_change(), None);
    assert_eq!(shift_augmentation(-60.0, 20.0).max_hu_change(), Some(60.0));
    let source = SliceSource {
        slices: &[channels.index_axis(Axis(1), 4)],
        labels: labels.index_axis(Axis(0), 4),
        hu: None,
        scalings: &[],
    };
    let cut = SliceCrop {
        corner: [0, 0],
        size: [40, 44],
        spacing_mm: [1.0, 1.0],
        image_channels: 2,
    };
    let mut patch = Array4::zeros((3, 1, 40, 44));
    let mut marked = Array2::zeros((40, 44));
    let into = (patch.view_mut(), marked.view_mut());
    shift_augmentation(50.0, 50.0).fill(&cut, 1, &source, into);
    assert_eq!(
        patch.index_axis(Axis(1), 0),
        channels.index_axis(Axis(1), 4)
    );
}

#[test]
fn coarse_dropout_changes_only_image_channels() {
    let dropout = Augmentation {
        coarse_dropout_probability: 1.0,
        coarse_dropout_boxes: [2, 3],
        coarse_dropout_size: [0.25, 0.5],
        coarse_dropout_value: 0.625_13,
        ..Augmentation::none()
    };
    let (_, channels, labels) = volume([12, 40, 44]);
    for seed in 0..20 {
        let (patch, marked) = augmented_patch(&dropout, seed);
        assert_eq!(marked, labels);
        assert_eq!(
            patch.index_axis(Axis(0), 2),
            channels.index_axis(Axis(0), 2)
        );
        let is_box = |channel: usize| patch.index_axis(Axis(0), channel).mapv(|v| v == 0.625_13);
        let boxed = is_box(0);
        assert_eq!(boxed, is_box(1), "both windows alike");
        for channel in 0..2 {
            let pairs = patch.index_axis(Axis(0), channel);
            let before = channels.index_axis(Axis(0), channel);
            let others = pairs.iter().zip(before).zip(&boxed);
            assert!(
                others
                    .into_iter()
                    .all(|((now, was), boxed)| *boxed || now == was)
            );
        }
        // From one of 3 × 10 × 11 voxels to three of 6 × 20 × 22.
        let count = boxed.iter().filter(|boxed| **boxed).count();
        assert!((330..=7920).contains(&count), "{count}");
    }
}

#[test]
fn a_shifted_patch_equals_a_patch_of_a_shifted_scan() {
    let folder = tempfile::tempdir().unwrap();
    let set = SliceSet { slices: 2, seed: 5 };
    let dataset = Dataset::open(&set.written(folder.path(), &Silent).unwrap()).unwrap();
    let no_others = "rotation_probability = 0, scale_probability = 0, noise_probability = 0, blur_probability = 0, brightness_probability = 0, contrast_probability = 0, low_resolution_probability = 0, gamma_probability = 0, inverted_gamma_probability = 0";
    let shifted = format!(
        "training.augmentation={{ {no_others}, hu_shift_probability = 1, hu_shift = [35, 35] }}"
    );
    let recipe = |augmentation: &str, windows: &str| {
        let set = ["training.batch_size=1", augmentation, windows].map(str::to_owned);
        Recipe::named("slices", &set).unwrap()
    };
    // A scan with 35 HU more in a window equals this scan in a window 35 HU lower.
    let first_batch = |recipe: &Recipe| {
        let structures = dataset.structures.iter().map(|s| s.value).collect();
        let source = CaseSource::new(&dataset, recipe, structures, BTreeMap::new());
        let (to, batches) = sync_channel(100);
        assert!(send_epoch(&source, &[0], 1, 0, &to));
        let batch = batches.recv().unwrap().unwrap().unwrap();
        let input = Array4::from_shape_vec((2, 1, 128, 128), batch.input);
        (input.unwrap(), batch.targets)
    };
    let windows = "windows_hu=[[-160, 240], [-200, 1200]]";
    let (found, targets) = first_batch(&recipe(&shifted, windows));
    let disabled = "training.augmentation.enabled=false";
    let (expected, same) = first_batch(&recipe(disabled, "windows_hu=[[-195, 205], [-235, 1165]]"));
    let (before, _) = first_batch(&recipe(disabled, windows));
    let difference = (&found - &expected).mapv(f32::abs);
    assert!(difference.iter().all(|v| *v < 1e-5));
    assert!((&found - &before).iter().any(|v| v.abs() > 0.05));
    assert_eq!(targets, same);
    assert!(found.slice(s![0, .., .., ..]).iter().any(|v| *v > 0.5));
}
