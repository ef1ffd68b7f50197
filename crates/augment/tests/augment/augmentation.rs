//! Augmentation against SciPy and nnU-Net's formulas (scripts/golden/make_augmentation.py), and what must
//! hold for any seed.

use ctseg_augment::{Augmentation, Cut, FlipAxis, Placement, SliceSource, Turn, intensity};
use ndarray::{Array2, Array3, ArrayView2, ArrayView3, Axis, s};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    slice: Stored,
    labels: Stored,
    placements: Vec<Placed>,
    intensities: Vec<Intensity>,
}

#[derive(Deserialize)]
struct Stored {
    offset: usize,
    shape_yx: [usize; 2],
}

#[derive(Deserialize)]
struct Placed {
    corner: [usize; 2],
    cut: [usize; 2],
    degrees: f64,
    scale: f64,
    flip: [bool; 2],
    spacing_mm: [f64; 2],
    linear: Stored,
    nearest: Stored,
    tie: Stored,
}

#[derive(Deserialize)]
struct Intensity {
    name: String,
    value: f64,
    expected: Stored,
}

const VALUES: &[u8] = include_bytes!("../../../../tests/golden/augmentation/values.bin");

fn golden() -> Golden {
    serde_json::from_str(include_str!(
        "../../../../tests/golden/augmentation/index.json"
    ))
    .unwrap()
}

impl Stored {
    fn array<const BYTES: usize, T>(&self, decode: impl Fn([u8; BYTES]) -> T) -> Array2<T> {
        let (values, _) = VALUES[self.offset..].as_chunks::<BYTES>();
        let pixels = self.shape_yx.iter().product();
        let values = values[..pixels].iter().map(|b| decode(*b)).collect();
        Array2::from_shape_vec(self.shape_yx, values).unwrap()
    }

    fn floats(&self) -> Array2<f32> {
        self.array(f32::from_le_bytes)
    }

    fn labels(&self) -> Array2<u16> {
        self.array(u16::from_le_bytes)
    }
}

fn largest_difference(a: &Array2<f32>, b: &Array2<f32>) -> f32 {
    assert_eq!(a.dim(), b.dim());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

#[test]
fn placements_equal_scipy() {
    let golden = golden();
    let (slice, labels) = (golden.slice.floats(), golden.labels.labels());
    assert_eq!(golden.placements.len(), 6);
    for case in &golden.placements {
        let turn = Turn {
            degrees: case.degrees,
            scale: case.scale,
            flip: case.flip,
        };
        let placement = Placement::new(case.corner, case.cut, &turn, case.spacing_mm);
        let mut linear = Array2::from_elem(case.linear.shape_yx, f32::NAN);
        let mut nearest = Array2::from_elem(case.nearest.shape_yx, 99);
        placement.sample(
            None,
            vec![(slice.view(), linear.view_mut())],
            (labels.view(), nearest.view_mut()),
        );
        let difference = largest_difference(&linear, &case.linear.floats());
        assert!(difference < 1e-6, "{turn:?}: {difference}");

        let tie = case.tie.array(|[tie]: [u8; 1]| tie != 0);
        let expected = case.nearest.labels();
        let decided = tie.iter().filter(|tie| !**tie).count();
        assert!(
            decided * 2 > tie.len(),
            "{turn:?}: almost everything is a tie"
        );
        for ((at, label), tie) in nearest.indexed_iter().zip(&tie) {
            assert!(*tie || *label == expected[at], "{turn:?} at {at:?}");
        }
    }
}

#[test]
fn intensity_changes_equal_the_references() {
    let golden = golden();
    let slice = golden.slice.floats();
    let width = slice.dim().1;
    for case in &golden.intensities {
        let mut changed = slice.clone();
        let plane = changed.as_slice_mut().unwrap();
        match case.name.as_str() {
            "brightness" => intensity::brightness(plane, case.value as f32),
            "contrast" => intensity::contrast(plane, case.value as f32),
            "gamma" => intensity::gamma(plane, case.value as f32, false),
            "inverted_gamma" => intensity::gamma(plane, case.value as f32, true),
            "blur" => intensity::blur(plane, width, case.value),
            "low_resolution" => intensity::low_resolution(plane, width, case.value),
            other => panic!("{other}"),
        }
        let difference = largest_difference(&changed, &case.expected.floats());
        assert!(
            difference < 3e-6,
            "{} {}: {difference}",
            case.name,
            case.value
        );
    }
}

#[test]
fn planes_of_one_value_stay_as_they_are() {
    let mut plane = vec![0.25f32; 30];
    intensity::gamma(&mut plane, 1.4, false);
    intensity::gamma(&mut plane, 0.7, true);
    intensity::contrast(&mut plane, 1.2);
    intensity::blur(&mut plane, 6, 0.8);
    intensity::low_resolution(&mut plane, 6, 0.5);
    assert!(plane.iter().all(|v| (v - 0.25).abs() < 1e-6), "{plane:?}");
}

#[test]
fn noise_has_the_standard_deviation_that_was_asked_for() {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut plane = vec![0.5f32; 40_000];
    intensity::noise(&mut plane, 0.05, &mut rng);
    let n = plane.len() as f32;
    let mean = plane.iter().sum::<f32>() / n;
    let sd = (plane.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt();
    // Five standard errors each.
    assert!(
        (mean - 0.5).abs() < 1.3e-3 && (sd - 0.05).abs() < 9e-4,
        "{mean} {sd}"
    );
}

#[test]
fn quarter_turns_equal_rot90() {
    let square = Array2::from_shape_fn((16, 16), |(y, x)| ((y * 31 + x * 7) % 101) as f32 / 100.0);
    let turned = |degrees: f64| {
        let turn = Turn {
            degrees,
            ..Turn::NONE
        };
        let mut patch = Array2::zeros((16, 16));
        let (labels, mut marked) = (Array2::zeros((16, 16)), Array2::zeros((16, 16)));
        Placement::new([0, 0], [16, 16], &turn, [2.0, 2.0]).sample(
            None,
            vec![(square.view(), patch.view_mut())],
            (labels.view(), marked.view_mut()),
        );
        patch
    };
    // numpy.rot90(m)[i, j] = m[j, n - 1 - i]
    let rot90 = |m: &Array2<f32>| Array2::from_shape_fn((16, 16), |(i, j)| m[(j, 15 - i)]);
    let mut expected = square.clone();
    for quarter in 1..4 {
        expected = rot90(&expected);
        let difference = largest_difference(&turned(90.0 * f64::from(quarter)), &expected);
        assert!(difference < 1e-6, "{quarter}: {difference}");
    }
}

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
    cut: &Cut,
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

fn cut(corner: [usize; 2], size: [usize; 2]) -> Cut {
    Cut {
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
fn what_turns_in_at_the_border_is_tissue() {
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

/// Everything happens to every channel.
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
    fn any_seed_gives_sound_patches_and_the_same_ones_again(seed in any::<u64>(), y in 0usize..20, x in 0usize..20) {
        let at = cut([y, x], [20, 30]);
        let (patch, labels) = filled(&all_on(), &at, seed, [24, 32]);
        prop_assert!(patch.iter().all(|v| (0.0..=1.0).contains(v)));
        prop_assert!(values_of(labels.view()).iter().all(|l| [0, 3, 300].contains(l)));
        prop_assert_eq!((patch, labels), filled(&all_on(), &at, seed, [24, 32]));
    }
}

#[test]
fn settings_that_cannot_work_are_told() {
    assert_eq!(Augmentation::default().problem(), None);
    let on = Augmentation::default;
    for (wrong, key) in [
        (
            Augmentation {
                noise_probability: 1.5,
                ..on()
            },
            "probability",
        ),
        (
            Augmentation {
                gamma_probability: f64::NAN,
                ..on()
            },
            "probability",
        ),
        (
            Augmentation {
                rotation_degrees: 200.0,
                ..on()
            },
            "rotation_degrees",
        ),
        (
            Augmentation {
                scale: [1.2, 0.8],
                ..on()
            },
            "scale",
        ),
        (
            Augmentation {
                scale: [0.0, 1.0],
                ..on()
            },
            "scale",
        ),
        (
            Augmentation {
                blur_sigma_pixels: [0.5, 1e9],
                ..on()
            },
            "blur_sigma_pixels",
        ),
        (
            Augmentation {
                low_resolution: [0.5, 2.0],
                ..on()
            },
            "low_resolution",
        ),
        (
            Augmentation {
                gamma: [-1.0, 1.0],
                ..on()
            },
            "gamma",
        ),
        (
            Augmentation {
                elastic_sigma_mm: [0.0, 9.0],
                ..on()
            },
            "elastic_sigma_mm",
        ),
        (
            Augmentation {
                elastic_sigma_mm: [5.0, 9.0],
                elastic_magnitude_mm: [1.0, 6.0],
                ..on()
            },
            "fold",
        ),
        (
            Augmentation {
                hu_shift: [10.0, f64::NAN],
                ..on()
            },
            "hu_shift",
        ),
        (
            Augmentation {
                metal_points: [3, 2],
                ..on()
            },
            "metal_points",
        ),
        (
            Augmentation {
                metal_radius_mm: [-1.0, 2.0],
                ..on()
            },
            "metal_radius_mm",
        ),
        (
            Augmentation {
                metal_streak_hu: [0.0, 9000.0],
                ..on()
            },
            "metal_streak_hu",
        ),
        (
            Augmentation {
                coarse_dropout_boxes: [1, 1000],
                ..on()
            },
            "coarse_dropout_boxes",
        ),
        (
            Augmentation {
                coarse_dropout_size: [0.2, 1.2],
                ..on()
            },
            "coarse_dropout_size",
        ),
        (
            Augmentation {
                coarse_dropout_value: -0.5,
                ..on()
            },
            "coarse_dropout_value",
        ),
    ] {
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
