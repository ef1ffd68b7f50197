//! Elastic deformation against SciPy (scripts/golden/make_elastic.py); images and labels stay aligned.

use ndarray::{Array, Array2, Array3, Array4, ArrayD, Axis, Dimension};
use serde::Deserialize;

use ctseg_augment::{
    AffineGrid, AffineGrid3d, Augmentation, DisplacementField, FlipAxis, SliceCrop, SliceSource,
    VolumeCrop, VolumeSource,
};

#[derive(Deserialize)]
struct Golden {
    slices: Vec<Case>,
    volumes: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    shape: Vec<usize>,
    corner: Vec<usize>,
    size: Vec<usize>,
    distance: Vec<f64>,
    matrix: Vec<Vec<f64>>,
    image: Vec<f32>,
    labels: Vec<u16>,
    points: Vec<Vec<f32>>,
    linear: Vec<f32>,
    nearest: Vec<u16>,
    doubtful: Vec<bool>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!(
        "../../../../tests/golden/augmentation/elastic.json"
    ))
    .unwrap()
}

fn fixed<T: Copy, const D: usize>(values: &[T]) -> [T; D] {
    std::array::from_fn(|axis| values[axis])
}

impl Case {
    fn field<const D: usize>(&self) -> DisplacementField {
        let (size, distance) = (fixed::<_, D>(&self.size), fixed::<_, D>(&self.distance));
        DisplacementField::new(size, distance, self.points.clone())
            .expect("as many points as it needs")
    }

    fn place<const D: usize>(&self) -> ([[f64; D]; D], [f64; D], [f64; D]) {
        let pivot = fixed::<_, D>(&self.size).map(|n| (n as f64 - 1.0) / 2.0);
        let centre = std::array::from_fn(|axis| self.corner[axis] as f64 + pivot[axis]);
        (
            std::array::from_fn(|row| fixed(&self.matrix[row])),
            centre,
            pivot,
        )
    }

    fn check<'a>(
        &self,
        found: impl Iterator<Item = &'a f32>,
        nearest: impl Iterator<Item = &'a u16>,
    ) {
        let difference = found.zip(&self.linear).map(|(a, b)| (a - b).abs());
        let difference = difference.fold(0.0, f32::max);
        assert!(difference < 5e-6, "{:?}: {difference}", self.size);
        let sure = self.doubtful.iter().filter(|doubtful| !**doubtful).count();
        assert!(sure * 10 > self.doubtful.len() * 9);
        for ((label, expected), doubtful) in nearest.zip(&self.nearest).zip(&self.doubtful) {
            assert!(*doubtful || label == expected);
        }
    }
}

#[test]
fn deformed_slices_equal_scipys() {
    for case in golden().slices {
        let shape = fixed::<_, 2>(&case.shape);
        let image = Array2::from_shape_vec(shape, case.image.clone()).unwrap();
        let labels = Array2::from_shape_vec(shape, case.labels.clone()).unwrap();
        let size = fixed::<_, 2>(&case.size);
        let (mut linear, mut nearest) = (Array2::zeros(size), Array2::zeros(size));
        let (matrix, centre, pivot) = case.place();
        AffineGrid {
            matrix,
            centre,
            pivot,
        }
        .sample(
            Some(&case.field::<2>()),
            vec![(image.view(), linear.view_mut())],
            (labels.view(), nearest.view_mut()),
        );
        case.check(linear.iter(), nearest.iter());
    }
}

#[test]
fn deformed_volumes_equal_scipys() {
    for case in golden().volumes {
        let shape = fixed::<_, 3>(&case.shape);
        let image = Array3::from_shape_vec(shape, case.image.clone()).unwrap();
        let labels = Array3::from_shape_vec(shape, case.labels.clone()).unwrap();
        let size = fixed::<_, 3>(&case.size);
        let (mut linear, mut nearest) = (Array3::zeros(size), Array3::zeros(size));
        let (matrix, centre, pivot) = case.place();
        AffineGrid3d {
            matrix,
            centre,
            pivot,
        }
        .sample(
            Some(&case.field::<3>()),
            vec![(image.view(), linear.view_mut())],
            (labels.view(), nearest.view_mut()),
        );
        case.check(linear.iter(), nearest.iter());
    }
}

#[test]
fn a_field_needs_all_its_control_points() {
    let count = DisplacementField::control_point_count(20, 6.0);
    assert_eq!(count, 7, "19 / 6 gives 3 whole steps, and 4 more");
    let points = vec![vec![0.0; count * count]; 2];
    assert!(DisplacementField::new([20, 20], [6.0, 6.0], points.clone()).is_some());
    assert!(DisplacementField::new([20, 27], [6.0, 6.0], points).is_none());
}

/// All spatial changes.
fn moving() -> Augmentation {
    Augmentation {
        rotation_probability: 1.0,
        scale_probability: 1.0,
        elastic_probability: 1.0,
        elastic_sigma_mm: [8.0, 16.0],
        elastic_magnitude_mm: [3.0, 6.0],
        flip_axes: vec![FlipAxis::X, FlipAxis::Y],
        ..Augmentation::none()
    }
}

fn centroid(weights: &ArrayD<f64>) -> Vec<f64> {
    let sum = weights.sum();
    (0..weights.ndim())
        .map(|axis| {
            let all = weights.indexed_iter();
            all.map(|(at, w)| at.slice()[axis] as f64 * w).sum::<f64>() / sum
        })
        .collect()
}

/// Misalignment of an image and its labels in voxels: of their centroids, and of their surfaces on average (the
/// volume between them, divided by the number of surface voxels).
fn misalignment<D: Dimension>(image: &Array<f32, D>, labels: &Array<u16, D>) -> (f64, f64) {
    let image = image.mapv(f64::from).into_dyn();
    let marked = labels.mapv(f64::from).into_dyn();
    let centroids = centroid(&image).into_iter().zip(centroid(&marked));
    let centroids = centroids.map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let shown = image.mapv(|v| f64::from(u8::from(v > 0.5)));
    let between = (&shown - &marked).mapv(f64::abs).sum();
    // Faces between inside and outside overcount a slanted surface by up to √D.
    let faces: f64 = (0..marked.ndim())
        .map(|axis| {
            let pairs = marked.axis_windows(Axis(axis), 2).into_iter();
            let differ = pairs.map(|pair| {
                let (low, high) = pair.split_at(Axis(axis), 1);
                (&low - &high).mapv(f64::abs).sum()
            });
            differ.sum::<f64>()
        })
        .sum();
    (centroids, between / (faces / (marked.ndim() as f64).sqrt()))
}

fn is_in_ball<const D: usize>(at: [usize; D], centre: [f64; D], radius: f64) -> bool {
    let squares = (0..D).map(|axis| (at[axis] as f64 - centre[axis]).powi(2));
    squares.sum::<f64>() <= radius * radius
}

#[test]
fn a_disc_and_its_label_move_together() {
    let labels = Array2::from_shape_fn((96, 96), |(y, x)| {
        u16::from(is_in_ball([y, x], [46.0, 49.0], 15.0))
    });
    let image = labels.mapv(f32::from).insert_axis(Axis(0));
    let cut = SliceCrop {
        corner: [12, 12],
        size: [72, 72],
        spacing_mm: [1.0, 1.0],
        image_channels: 1,
    };
    let mut still = 0;
    for seed in 0..60 {
        let mut patch = Array4::zeros((1, 1, 72, 72));
        let mut marked = Array2::zeros((72, 72));
        let source = SliceSource {
            slices: &[image.view()],
            labels: labels.view(),
            hu: None,
            scalings: &[],
        };
        moving().fill(&cut, seed, &source, (patch.view_mut(), marked.view_mut()));
        let shown = patch
            .index_axis(Axis(0), 0)
            .index_axis(Axis(0), 0)
            .to_owned();
        let (centroids, surfaces) = misalignment(&shown, &marked);
        assert!(
            centroids < 0.25 && surfaces < 0.25,
            "{seed}: {centroids} {surfaces}"
        );
        // A shift of one voxel would be detected.
        let mut off = Array2::zeros((72, 72));
        off.slice_mut(ndarray::s![.., 1..])
            .assign(&marked.slice(ndarray::s![.., ..71]));
        let (centroids, surfaces) = misalignment(&shown, &off);
        assert!(
            centroids > 0.75 && surfaces > 0.5,
            "{seed}: {centroids} {surfaces}"
        );
        still += usize::from(marked == labels.slice(ndarray::s![12..84, 12..84]));
    }
    assert_eq!(still, 0, "every patch was moved");
}

#[test]
fn a_ball_and_its_label_move_together() {
    let labels = Array3::from_shape_fn((40, 56, 56), |(z, y, x)| {
        // Round in millimetres, not in voxels.
        let at = [2.0 * z as f64, y as f64, x as f64];
        let away = (at[0] - 40.0).powi(2) + (at[1] - 27.0).powi(2) + (at[2] - 30.0).powi(2);
        u16::from(away <= 15.0 * 15.0)
    });
    let image = labels.mapv(f32::from).insert_axis(Axis(0));
    let cut = VolumeCrop {
        corner: [4, 4, 4],
        size: [32, 48, 48],
        spacing_mm: [2.0, 1.0, 1.0],
        image_channels: 1,
    };
    for seed in 0..12 {
        let mut patch = Array4::zeros((1, 32, 48, 48));
        let mut marked = Array3::zeros((32, 48, 48));
        let source = VolumeSource {
            channels: image.view(),
            labels: labels.view(),
            hu: None,
            scalings: &[],
        };
        moving().fill_volume(&cut, seed, &source, (patch.view_mut(), marked.view_mut()));
        let shown = patch.index_axis(Axis(0), 0).to_owned();
        let (centroids, surfaces) = misalignment(&shown, &marked);
        assert!(
            centroids < 0.25 && surfaces < 0.25,
            "{seed}: {centroids} {surfaces}"
        );
    }
}

#[test]
fn elastic_deformation_leaves_the_affine_transform_unchanged() {
    // The deformation has its own random stream: the affine transform stays the same.
    let turned = Augmentation {
        elastic_probability: 0.0,
        ..moving()
    };
    let ramp = Array3::from_shape_fn((1, 112, 112), |(_, y, x)| (y + x) as f32 / 222.0);
    let labels = Array2::zeros((112, 112));
    let cut = SliceCrop {
        corner: [40, 40],
        size: [32, 32],
        spacing_mm: [1.0, 1.0],
        image_channels: 1,
    };
    for seed in 0..20 {
        let fill = |augmentation: &Augmentation| {
            let mut patch = Array4::zeros((1, 1, 32, 32));
            let mut marked = Array2::zeros((32, 32));
            let source = SliceSource {
                slices: &[ramp.view()],
                labels: labels.view(),
                hu: None,
                scalings: &[],
            };
            let into = (patch.view_mut(), marked.view_mut());
            (augmentation.fill(&cut, seed, &source, into), patch)
        };
        let ((affine, straight), (same_turn, deformed)) = (fill(&turned), fill(&moving()));
        assert_eq!(affine, same_turn);
        // A ramp of 1/222 per pixel and axis shows how far each pixel moved: at most 6 along each axis in the patch,
        // so √2 times that in the slice, at 0.7 of its size.
        let moves = (&straight - &deformed).mapv(f32::abs);
        let most = moves.iter().fold(0f32, |a, v| a.max(*v)) * 222.0;
        assert!(most > 0.5 && most < 6.3 * 2.0 / 0.7, "{most}");
    }
}
