//! Affine sampling and intensity changes against SciPy and nnU-Net's formulas (scripts/golden/make_augmentation.py).

use ndarray::Array2;
use serde::Deserialize;

use ctseg_augment::{AffineGrid, AffineParams, intensity};

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
        let affine = AffineParams {
            degrees: case.degrees,
            scale: case.scale,
            flip: case.flip,
        };
        let grid = AffineGrid::new(case.corner, case.cut, &affine, case.spacing_mm);
        let mut linear = Array2::from_elem(case.linear.shape_yx, f32::NAN);
        let mut nearest = Array2::from_elem(case.nearest.shape_yx, 99);
        grid.sample(
            None,
            vec![(slice.view(), linear.view_mut())],
            (labels.view(), nearest.view_mut()),
        );
        let difference = largest_difference(&linear, &case.linear.floats());
        assert!(difference < 1e-6, "{affine:?}: {difference}");

        let tie = case.tie.array(|[tie]: [u8; 1]| tie != 0);
        let expected = case.nearest.labels();
        let decided = tie.iter().filter(|tie| !**tie).count();
        assert!(
            decided * 2 > tie.len(),
            "{affine:?}: almost everything is a tie"
        );
        for ((at, label), tie) in nearest.indexed_iter().zip(&tie) {
            assert!(*tie || *label == expected[at], "{affine:?} at {at:?}");
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
fn constant_planes_are_unchanged() {
    let mut plane = vec![0.25f32; 30];
    intensity::gamma(&mut plane, 1.4, false);
    intensity::gamma(&mut plane, 0.7, true);
    intensity::contrast(&mut plane, 1.2);
    intensity::blur(&mut plane, 6, 0.8);
    intensity::low_resolution(&mut plane, 6, 0.5);
    assert!(plane.iter().all(|v| (v - 0.25).abs() < 1e-6), "{plane:?}");
}

#[test]
fn noise_has_the_requested_standard_deviation() {
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
        let affine = AffineParams {
            degrees,
            ..AffineParams::NONE
        };
        let mut patch = Array2::zeros((16, 16));
        let (labels, mut marked) = (Array2::zeros((16, 16)), Array2::zeros((16, 16)));
        AffineGrid::new([0, 0], [16, 16], &affine, [2.0, 2.0]).sample(
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
