//! Resampling, labels and components compared with scikit-image and SciPy (scripts/golden/make_resample.py).

use ndarray::{Array3, Zip};
use serde::Deserialize;

use ctseg_image::labels::components::{Connectivity, keep_components, label_components};
use ctseg_image::resample::{
    Interpolation, LabelInterpolation, resample, resample_array, resample_array_unclipped,
    resample_labels,
};
use ctseg_image::space::{Affine, Grid, LabelMap, Volume};

#[derive(Deserialize)]
struct Golden {
    resize: Vec<Resize>,
    coordinates: Vec<Coordinates>,
    labels: Vec<Labels>,
    components: Vec<Components>,
}

#[derive(Deserialize)]
struct Stored {
    offset: usize,
    shape_zyx: [usize; 3],
}

#[derive(Deserialize)]
struct Resize {
    name: String,
    source: Stored,
    target_shape_zyx: [usize; 3],
    linear: Stored,
    cubic: Stored,
    cubic_unclipped: Option<Stored>,
}

#[derive(Deserialize)]
struct Coordinates {
    name: String,
    source: Stored,
    source_affine: Affine,
    target_shape_xyz: [usize; 3],
    target_affine: Affine,
    nearest: Stored,
    linear: Stored,
    cubic_unclipped: Stored,
}

#[derive(Deserialize)]
struct Labels {
    name: String,
    source: Stored,
    target_shape_zyx: [usize; 3],
    labels: Stored,
    tie: Stored,
}

#[derive(Deserialize)]
struct Components {
    name: String,
    mask: Stored,
    six: Expected,
    twenty_six: Expected,
}

#[derive(Deserialize)]
struct Expected {
    labels: Stored,
    sizes: Vec<usize>,
    kept: [usize; 2],
}

const VALUES: &[u8] = include_bytes!("../../../../tests/golden/resample/values.bin");

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../../tests/golden/resample/index.json")).unwrap()
}

impl Stored {
    fn array<const BYTES: usize, T>(&self, decode: impl Fn([u8; BYTES]) -> T) -> Array3<T> {
        let (values, _) = VALUES[self.offset..].as_chunks::<BYTES>();
        let voxels = self.shape_zyx.iter().product();
        let values = values[..voxels]
            .iter()
            .map(|bytes| decode(*bytes))
            .collect();
        Array3::from_shape_vec(self.shape_zyx, values).unwrap()
    }

    fn floats(&self) -> Array3<f32> {
        self.array(f32::from_le_bytes)
    }

    fn flags(&self) -> Array3<bool> {
        self.array(|[flag]: [u8; 1]| flag != 0)
    }
}

/// Oblique on purpose: only the relation of the two grids should matter.
fn grid(shape_zyx: [usize; 3]) -> Grid {
    let (sin, cos) = 0.3f64.sin_cos();
    let [z, y, x] = shape_zyx;
    Grid {
        shape: [x, y, z],
        affine: [
            [-0.8 * cos, 1.1 * sin, 0.0, 90.0],
            [-0.8 * sin, -1.1 * cos, 0.0, 120.5],
            [0.0, 0.0, 3.0, -700.25],
        ],
    }
}

fn resized(source: &Grid, [z, y, x]: [usize; 3]) -> Grid {
    source.resized([x, y, z])
}

/// The golden values span 2000 HU: 2e-3 HU is 1e-6 of that.
fn assert_close(name: &str, found: &Array3<f32>, expected: &Array3<f32>) {
    assert_eq!(found.shape(), expected.shape(), "{name}");
    let worst = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(
        worst < 2e-3 && !found.iter().any(|v| v.is_nan()),
        "{name}: off by {worst} HU"
    );
}

#[test]
fn whole_volumes_agree_with_scikit_image_as_nnunet_calls_it() {
    let mut overshoots = 0;
    for case in golden().resize {
        let from = grid(case.source.shape_zyx);
        let volume = Volume {
            grid: from,
            data: case.source.floats(),
        };
        let onto = resized(&from, case.target_shape_zyx);
        for (interpolation, expected) in [
            (Interpolation::Linear, &case.linear),
            (Interpolation::Cubic, &case.cubic),
        ] {
            let found = resample(&volume, &onto, interpolation).unwrap();
            assert_eq!(found.grid, onto);
            assert_close(
                &format!("{} {interpolation:?}", case.name),
                &found.data,
                &expected.floats(),
            );
        }
        if let Some(expected) = case.cubic_unclipped {
            let view = volume.data.view();
            let found = resample_array_unclipped(view, &from, &onto, Interpolation::Cubic).unwrap();
            assert_close(
                &format!("{} unclipped", case.name),
                &found,
                &expected.floats(),
            );
            let clipped = case.cubic.floats();
            overshoots += Zip::from(&found)
                .and(&clipped)
                .fold(0, |n, a, b| n + usize::from((a - b).abs() > 1.0));
        }
    }
    assert!(
        overshoots > 10,
        "clipping was not tested: {overshoots} voxels overshoot"
    );
}

#[test]
fn parts_flips_and_permutations_agree_with_scipy() {
    for case in golden().coordinates {
        let data = case.source.floats();
        let [z, y, x] = case.source.shape_zyx;
        let from = Grid {
            shape: [x, y, z],
            affine: case.source_affine,
        };
        let onto = Grid {
            shape: case.target_shape_xyz,
            affine: case.target_affine,
        };
        let run = |interpolation| {
            resample_array_unclipped(data.view(), &from, &onto, interpolation).unwrap()
        };
        assert_eq!(
            run(Interpolation::Nearest),
            case.nearest.floats(),
            "{} nearest",
            case.name
        );
        let name = format!("{} linear", case.name);
        assert_close(&name, &run(Interpolation::Linear), &case.linear.floats());
        let name = format!("{} cubic", case.name);
        assert_close(
            &name,
            &run(Interpolation::Cubic),
            &case.cubic_unclipped.floats(),
        );
    }
}

#[test]
fn clipping_uses_the_range_of_the_whole_source() {
    for case in golden().coordinates {
        let data = case.source.floats();
        let [z, y, x] = case.source.shape_zyx;
        let from = Grid {
            shape: [x, y, z],
            affine: case.source_affine,
        };
        let onto = Grid {
            shape: case.target_shape_xyz,
            affine: case.target_affine,
        };
        let low = data.iter().copied().fold(f32::INFINITY, f32::min);
        let high = data.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let found = resample_array(data.view(), &from, &onto, Interpolation::Cubic).unwrap();
        let expected = case.cubic_unclipped.floats().mapv(|v| v.clamp(low, high));
        assert_close(&case.name, &found, &expected);
    }
}

#[test]
fn labels_agree_with_nnunets_rule_except_at_ties() {
    for case in golden().labels {
        let source = LabelMap {
            grid: grid(case.source.shape_zyx),
            data: case.source.array(u16::from_le_bytes),
        };
        let onto = resized(&source.grid, case.target_shape_zyx);
        let found = resample_labels(&source, &onto, LabelInterpolation::OneHotLinear).unwrap();
        let expected: Array3<u16> = case.labels.array(u16::from_le_bytes);
        let wrong = Zip::from(&found.data)
            .and(&expected)
            .and(&case.tie.flags())
            .fold(0, |wrong, found, expected, tie| {
                wrong + usize::from(found != expected && !tie)
            });
        assert_eq!(
            wrong,
            0,
            "{}: {wrong} of {} voxels",
            case.name,
            expected.len()
        );
    }
}

#[test]
fn components_agree_with_scipy() {
    for case in golden().components {
        let mask = case.mask.flags();
        for (connectivity, expected) in [
            (Connectivity::Six, case.six),
            (Connectivity::TwentySix, case.twenty_six),
        ] {
            let (labels, sizes) = label_components(mask.view(), connectivity);
            let wanted = expected.labels.array(|[label]: [u8; 1]| u32::from(label));
            // SciPy also numbers by first voxel, so the numbers must agree too.
            assert_eq!(labels, wanted, "{} {connectivity:?}", case.name);
            assert_eq!(sizes, expected.sizes, "{} {connectivity:?}", case.name);
            for (fraction, kept) in [1.0, 0.1].into_iter().zip(expected.kept) {
                let mut left = mask.clone();
                assert_eq!(keep_components(&mut left, fraction, connectivity), kept);
                let largest = sizes.iter().max().copied().unwrap_or(0) as f64;
                let big = |label: &u32| {
                    *label > 0 && sizes[*label as usize - 1] as f64 >= fraction * largest
                };
                assert_eq!(left, wanted.map(big), "{} {fraction}", case.name);
            }
        }
    }
}
