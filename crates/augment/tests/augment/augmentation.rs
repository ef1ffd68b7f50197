//! Augmented patches of slices: invariants for any seed, and invalid settings.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, s};
use proptest::prelude::*;

use ctseg_augment::{Augmentation, FlipAxis, SliceCrop, SliceSource};

/// A slice of two image channels and a prior, with labels.
fn slice(height: usize, width: usize) -> (Array3<f32>, Array2<u16>) {
    let channels = Array3::from_shape_fn((3, height, width), |(c, y, x)| {
        (((c + 3) * (y + 5) * (x + 11)) % 97) as f32 / 96.0
    });
    let labels = Array2::from_shape_fn((height, width), |(y, x)| [0, 3, 300][(y / 5 + x / 7) % 3]);
    (channels, labels)
}

/// A source without Hounsfield units.
fn plain<'a>(slices: &'a [ArrayView3<'a, f32>], labels: ArrayView2<'a, u16>) -> SliceSource<'a> {
    SliceSource {
        slices,
        labels,
        hu: None,
        scalings: &[],
    }
}

fn filled(
    augmentation: &Augmentation,
    cut: &SliceCrop,
    seed: u64,
    size: [usize; 2],
) -> (Array3<f32>, Array2<u16>) {
    let (channels, labels) = slice(40, 50);
    let mut patch = Array3::from_elem((3, size[0], size[1]), f32::NAN);
    let mut patch_labels = Array2::from_elem(size, 77);
    augmentation.fill(
        cut,
        seed,
        &plain(&[channels.view()], labels.view()),
        (
            patch.view_mut().insert_axis(Axis(1)),
            patch_labels.view_mut(),
        ),
    );
    (patch, patch_labels)
}

fn cut(corner: [usize; 2], size: [usize; 2]) -> SliceCrop {
    SliceCrop {
        corner,
        size,
        spacing_mm: [1.0, 1.5],
        image_channels: 2,
    }
}

#[test]
fn without_changes_the_patch_is_the_slice_bit_for_bit() {
    let (channels, labels) = slice(40, 50);
    let (patch, patch_labels) = filled(&Augmentation::none(), &cut([7, 9], [24, 17]), 5, [24, 17]);
    assert_eq!(patch, channels.slice(s![.., 7..31, 9..26]));
    assert_eq!(patch_labels, labels.slice(s![7..31, 9..26]));
    // A patch larger than the slice holds it at its start and is 0 elsewhere.
    let (patch, patch_labels) = filled(&Augmentation::none(), &cut([0, 0], [40, 50]), 5, [48, 64]);
    assert_eq!(patch.slice(s![.., ..40, ..50]), channels);
    assert_eq!(patch_labels.slice(s![..40, ..50]), labels);
    assert!(patch.slice(s![.., 40.., ..]).iter().all(|v| *v == 0.0));
    assert!(patch.slice(s![.., .., 50..]).iter().all(|v| *v == 0.0));
    assert!(patch_labels.slice(s![.., 50..]).iter().all(|v| *v == 0));
}

#[test]
fn rotated_patches_show_tissue_at_the_border() {
    let turning = Augmentation {
        rotation_probability: 1.0,
        scale_probability: 1.0,
        scale: [0.8, 0.8],
        ..Augmentation::none()
    };
    let ones = Array3::from_elem((1, 60, 60), 1.0f32);
    for seed in 0..20 {
        let mut patch = Array3::zeros((1, 24, 24));
        turning.fill(
            &cut([18, 18], [24, 24]),
            seed,
            &plain(&[ones.view()], Array2::zeros((60, 60)).view()),
            (
                patch.view_mut().insert_axis(Axis(1)),
                Array2::zeros((24, 24)).view_mut(),
            ),
        );
        assert!(patch.iter().all(|v| (v - 1.0).abs() < 1e-6), "seed {seed}");
    }
}

/// Every change applies to every channel.
fn all_on() -> Augmentation {
    Augmentation {
        rotation_probability: 1.0,
        scale_probability: 1.0,
        noise_probability: 1.0,
        blur_probability: 1.0,
        brightness_probability: 1.0,
        contrast_probability: 1.0,
        low_resolution_probability: 1.0,
        gamma_probability: 1.0,
        inverted_gamma_probability: 1.0,
        elastic_probability: 1.0,
        coarse_dropout_probability: 1.0,
        flip_axes: vec![FlipAxis::X, FlipAxis::Y],
        ..Augmentation::default()
    }
}

#[test]
fn the_prior_moves_but_keeps_its_values() {
    let moves_only = Augmentation {
        noise_probability: 0.0,
        blur_probability: 0.0,
        brightness_probability: 0.0,
        contrast_probability: 0.0,
        low_resolution_probability: 0.0,
        gamma_probability: 0.0,
        inverted_gamma_probability: 0.0,
        coarse_dropout_probability: 0.0,
        ..all_on()
    };
    let at = cut([5, 5], [24, 24]);
    for seed in 0..10 {
        let (all, all_labels) = filled(&all_on(), &at, seed, [24, 24]);
        let (moved, moved_labels) = filled(&moves_only, &at, seed, [24, 24]);
        assert_eq!(all.index_axis(Axis(0), 2), moved.index_axis(Axis(0), 2));
        assert_eq!(all_labels, moved_labels);
        for channel in 0..2 {
            let channel = |patch: &Array3<f32>| patch.index_axis(Axis(0), channel).to_owned();
            assert_ne!(channel(&all), channel(&moved));
        }
    }
}

#[test]
fn probabilities_are_kept() {
    let augmentation = Augmentation {
        rotation_probability: 0.2,
        ..Augmentation::none()
    };
    let at = cut([5, 5], [16, 16]);
    let still = filled(&Augmentation::none(), &at, 0, [16, 16]);
    let turned = (0..1000)
        .filter(|seed| filled(&augmentation, &at, *seed, [16, 16]) != still)
        .count();
    // 200 expected, standard deviation 12.6.
    assert!((137..263).contains(&turned), "{turned}");
}

fn values_of(labels: ArrayView2<u16>) -> Vec<u16> {
    let mut values: Vec<u16> = labels.iter().copied().collect();
    values.sort_unstable();
    values.dedup();
    values
}

proptest! {
    #[test]
    fn any_seed_gives_valid_and_reproducible_patches(seed in any::<u64>(), y in 0usize..20, x in 0usize..20) {
        let at = cut([y, x], [20, 30]);
        let (patch, labels) = filled(&all_on(), &at, seed, [24, 32]);
        prop_assert!(patch.iter().all(|v| (0.0..=1.0).contains(v)));
        prop_assert!(values_of(labels.view()).iter().all(|l| [0, 3, 300].contains(l)));
        prop_assert_eq!((patch, labels), filled(&all_on(), &at, seed, [24, 32]));
    }
}

#[test]
fn invalid_settings_are_reported() {
    assert_eq!(Augmentation::default().problem(), None);
    type Change = fn(&mut Augmentation);
    let cases: [(&str, Change); 17] = [
        ("probability", |a| a.noise_probability = 1.5),
        ("probability", |a| a.gamma_probability = f64::NAN),
        ("rotation_degrees", |a| a.rotation_degrees = 200.0),
        ("scale", |a| a.scale = [1.2, 0.8]),
        ("scale", |a| a.scale = [0.0, 1.0]),
        ("blur_sigma_pixels", |a| a.blur_sigma_pixels = [0.5, 1e9]),
        ("low_resolution", |a| a.low_resolution = [0.5, 2.0]),
        ("gamma", |a| a.gamma = [-1.0, 1.0]),
        ("elastic_sigma_mm", |a| a.elastic_sigma_mm = [0.0, 9.0]),
        ("fold", |a| {
            a.elastic_sigma_mm = [5.0, 9.0];
            a.elastic_magnitude_mm = [1.0, 6.0];
        }),
        ("hu_shift", |a| a.hu_shift = [10.0, f64::NAN]),
        ("metal_points", |a| a.metal_points = [3, 2]),
        ("metal_radius_mm", |a| a.metal_radius_mm = [-1.0, 2.0]),
        ("metal_streak_hu", |a| a.metal_streak_hu = [0.0, 9000.0]),
        ("coarse_dropout_boxes", |a| {
            a.coarse_dropout_boxes = [1, 1000]
        }),
        ("coarse_dropout_size", |a| {
            a.coarse_dropout_size = [0.2, 1.2]
        }),
        ("coarse_dropout_value", |a| a.coarse_dropout_value = -0.5),
    ];
    for (key, change) in cases {
        let mut wrong = Augmentation::default();
        change(&mut wrong);
        let problem = wrong.problem().unwrap();
        assert!(
            problem.contains(key) && !problem.contains('\n'),
            "{problem}"
        );
    }
}

#[test]
fn beyond_the_field_of_view_images_are_air_and_nothing_else_changes() {
    let ends = Augmentation {
        field_of_view_probability: 1.0,
        ..Augmentation::none()
    };
    let at = cut([5, 5], [24, 24]);
    let still = filled(&Augmentation::none(), &at, 0, [24, 24]);
    let mut cleared = 0;
    for seed in 0..10 {
        let (patch, labels) = filled(&ends, &at, seed, [24, 24]);
        assert_eq!(labels, still.1);
        assert_eq!(patch.index_axis(Axis(0), 2), still.0.index_axis(Axis(0), 2));
        for y in 0..24 {
            for x in 0..24 {
                let [first, second] = [0, 1].map(|c| (patch[[c, y, x]], still.0[[c, y, x]]));
                let beyond = first.0 == 0.0 && second.0 == 0.0;
                assert!(beyond || (first.0 == first.1 && second.0 == second.1));
                cleared += usize::from(beyond && first.1 > 0.0);
            }
        }
    }
    assert!((576..5184).contains(&cleared), "{cleared} of 5760");
}
