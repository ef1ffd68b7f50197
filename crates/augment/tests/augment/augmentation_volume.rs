//! Augmentation of volumes against SciPy (scripts/golden/make_augmentation_volume.py), and invariants for any seed.

use ndarray::{Array3, Array4, Axis, s};
use serde::Deserialize;

use ctseg_augment::{
    AffineGrid3d, AffineParams3d, Augmentation, FlipAxis, VolumeCrop, VolumeSource, intensity,
};

#[derive(Deserialize)]
struct Golden {
    shape: [usize; 3],
    image: Vec<f32>,
    labels: Vec<u16>,
    placements: Vec<Placed>,
    blur_depth: Blur,
    low_resolution_depth: LowResolution,
}

#[derive(Deserialize)]
struct Placed {
    corner: [usize; 3],
    size: [usize; 3],
    degrees: [f64; 3],
    scale: f64,
    flip: [bool; 3],
    spacing_mm: [f64; 3],
    linear: Vec<f32>,
    nearest: Vec<u16>,
    doubtful: Vec<bool>,
}

#[derive(Deserialize)]
struct Blur {
    sigma: f64,
    expected: Vec<f32>,
}

#[derive(Deserialize)]
struct LowResolution {
    kept: f64,
    expected: Vec<f32>,
}

fn golden() -> (Golden, Array3<f32>, Array3<u16>) {
    let golden: Golden = serde_json::from_str(include_str!(
        "../../../../tests/golden/augmentation/volume.json"
    ))
    .unwrap();
    let image = Array3::from_shape_vec(golden.shape, golden.image.clone()).unwrap();
    let labels = Array3::from_shape_vec(golden.shape, golden.labels.clone()).unwrap();
    (golden, image, labels)
}

fn largest_difference<'a>(found: impl IntoIterator<Item = &'a f32>, expected: &'a [f32]) -> f32 {
    let pairs = found.into_iter().zip(expected);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn placements_equal_scipys() {
    let (golden, image, labels) = golden();
    for placed in &golden.placements {
        let affine = AffineParams3d {
            degrees: placed.degrees,
            scale: placed.scale,
            flip: placed.flip,
        };
        let grid = AffineGrid3d::new(placed.corner, placed.size, &affine, placed.spacing_mm);
        let mut patch = Array3::from_elem(placed.size, 9.0);
        let mut marked = Array3::from_elem(placed.size, 77);
        grid.sample(
            None,
            vec![(image.view(), patch.view_mut())],
            (labels.view(), marked.view_mut()),
        );
        let difference = largest_difference(&patch, &placed.linear);
        assert!(difference < 2e-6, "{affine:?}: {difference}");
        let sure = placed
            .doubtful
            .iter()
            .filter(|doubtful| !**doubtful)
            .count();
        assert!(sure > 100, "{affine:?}: {sure}");
        let pairs = marked.iter().zip(&placed.nearest).zip(&placed.doubtful);
        for ((found, expected), doubtful) in pairs {
            assert!(*doubtful || found == expected, "{affine:?}");
        }
    }
}

#[test]
fn changes_across_planes_equal_scipys() {
    let (golden, image, _) = golden();
    let plane = golden.shape[1] * golden.shape[2];
    let mut values = image.clone().into_raw_vec_and_offset().0;
    intensity::blur_depth(&mut values, plane, golden.blur_depth.sigma);
    assert!(largest_difference(&values, &golden.blur_depth.expected) < 2e-6);
    let mut values = image.into_raw_vec_and_offset().0;
    intensity::low_resolution_depth(&mut values, plane, golden.low_resolution_depth.kept);
    assert!(largest_difference(&values, &golden.low_resolution_depth.expected) < 2e-6);
}

/// Two channels of waves; labels mark where the first one is high.
fn volume() -> (Array4<f32>, Array3<u16>) {
    let wave = |c: usize, z: usize, y: usize, x: usize| {
        let phase = 0.31 * z as f32 + 0.23 * y as f32 + 0.17 * x as f32 + c as f32;
        0.5 + 0.5 * phase.sin()
    };
    let channels = Array4::from_shape_fn((2, 18, 20, 22), |(c, z, y, x)| wave(c, z, y, x));
    let labels = channels.index_axis(Axis(0), 0).mapv(|v| u16::from(v > 0.5));
    (channels, labels)
}

fn cut(corner: [usize; 3], size: [usize; 3]) -> VolumeCrop {
    VolumeCrop {
        corner,
        size,
        spacing_mm: [2.5, 1.0, 1.0],
        image_channels: 1,
    }
}

fn filled(
    augmentation: &Augmentation,
    cut: &VolumeCrop,
    seed: u64,
    size: [usize; 3],
) -> (Array4<f32>, Array3<u16>, AffineParams3d) {
    let (channels, labels) = volume();
    let mut patch = Array4::from_elem((2, size[0], size[1], size[2]), f32::NAN);
    let mut marked = Array3::from_elem(size, 77);
    let affine = augmentation.fill_volume(
        cut,
        seed,
        &VolumeSource {
            channels: channels.view(),
            labels: labels.view(),
            hu: None,
            scalings: &[],
        },
        (patch.view_mut(), marked.view_mut()),
    );
    (patch, marked, affine)
}

#[test]
fn without_changes_the_patch_is_the_volume_bit_for_bit() {
    let (channels, labels) = volume();
    let none = Augmentation::none();
    let (patch, marked, _) = filled(&none, &cut([3, 4, 5], [8, 9, 10]), 1, [8, 9, 10]);
    assert_eq!(patch, channels.slice(s![.., 3..11, 4..13, 5..15]));
    assert_eq!(marked, labels.slice(s![3..11, 4..13, 5..15]));
    // A patch larger than the volume holds it at its start and is 0 elsewhere.
    let (patch, marked, _) = filled(&none, &cut([0; 3], [18, 20, 22]), 1, [24, 24, 24]);
    assert_eq!(patch.slice(s![.., ..18, ..20, ..22]), channels);
    assert_eq!(marked.slice(s![..18, ..20, ..22]), labels);
    assert!(patch.slice(s![.., 18.., .., ..]).iter().all(|v| *v == 0.0));
    assert!(patch.slice(s![.., .., .., 22..]).iter().all(|v| *v == 0.0));
    assert!(marked.slice(s![.., 20.., ..]).iter().all(|v| *v == 0));
}

#[test]
fn image_and_labels_move_together() {
    let moving = Augmentation {
        rotation_probability: 1.0,
        scale_probability: 1.0,
        flip_axes: vec![FlipAxis::X, FlipAxis::Y, FlipAxis::Z],
        ..Augmentation::none()
    };
    for seed in 0..30 {
        let cut = cut([4, 4, 4], [10, 12, 14]);
        let (patch, marked, _) = filled(&moving, &cut, seed, [10, 12, 14]);
        let image = patch.index_axis(Axis(0), 0);
        // Where the image is clearly above or below the labels' threshold, the labels say the same.
        let wrong = image
            .iter()
            .zip(&marked)
            .filter(|(v, label)| {
                **v > 0.75 && **label == 0 || **v > 0.0 && **v < 0.25 && **label == 1
            })
            .count();
        assert_eq!(wrong, 0, "seed {seed}");
    }
}

#[test]
fn flipped_patches_are_reversed_and_reported() {
    let (channels, labels) = volume();
    let flipping = Augmentation {
        flip_axes: vec![FlipAxis::X, FlipAxis::Z],
        ..Augmentation::none()
    };
    let mut seen = [0; 2];
    for seed in 0..40 {
        let (patch, marked, affine) =
            filled(&flipping, &cut([0; 3], [18, 20, 22]), seed, [18, 20, 22]);
        assert!(!affine.flip[1], "y was not asked for");
        let (mut expected, mut marks) = (channels.clone(), labels.clone());
        for (axis, count) in [(0, 0), (2, 1)] {
            if affine.flip[axis] {
                expected.invert_axis(Axis(axis + 1));
                marks.invert_axis(Axis(axis));
                seen[count] += 1;
            }
        }
        assert_eq!(marked, marks);
        assert!((&patch - &expected).iter().all(|v| v.abs() < 1e-6));
    }
    assert!(
        seen.iter().all(|count| (8..=32).contains(count)),
        "{seen:?}"
    );
}

#[test]
fn the_seed_decides_and_values_stay_in_range() {
    let all = Augmentation {
        rotation_probability: 1.0,
        scale_probability: 1.0,
        noise_probability: 1.0,
        blur_probability: 1.0,
        brightness_probability: 1.0,
        contrast_probability: 1.0,
        low_resolution_probability: 1.0,
        field_of_view_probability: 1.0,
        elastic_probability: 1.0,
        coarse_dropout_probability: 1.0,
        gamma_probability: 1.0,
        inverted_gamma_probability: 1.0,
        ..Augmentation::default()
    };
    let cut = cut([2; 3], [12; 3]);
    let once = filled(&all, &cut, 5, [12; 3]);
    assert_eq!(once, filled(&all, &cut, 5, [12; 3]));
    assert_ne!(once, filled(&all, &cut, 6, [12; 3]));
    for seed in 0..20 {
        let (patch, _, _) = filled(&all, &cut, seed, [12; 3]);
        assert!(patch.iter().all(|v| (0.0..=1.0).contains(v)), "seed {seed}");
        // The second channel is not an image: it is neither clipped nor changed.
        let moved = Augmentation {
            rotation_probability: 1.0,
            scale_probability: 1.0,
            elastic_probability: 1.0,
            ..Augmentation::none()
        };
        let (only_moved, _, _) = filled(&moved, &cut, seed, [12; 3]);
        assert_eq!(
            patch.index_axis(Axis(0), 1),
            only_moved.index_axis(Axis(0), 1)
        );
    }
}
