//! Downsamples volumes for a page: images by area averaging, labels by nearest neighbour.

use ndarray::{Array1, Array3, ArrayView2, ArrayView3, Axis, Zip};
use rayon::prelude::*;

/// Replacement for NaN and infinite values.
const AIR_HU: f32 = -1024.0;

/// For each output voxel: the first source voxel that it covers, and the weight of each from there on.
type Cover = Vec<(usize, Vec<f32>)>;

/// The shape with at most `most` voxels: the finest axes are coarsened to a common spacing; no axis is refined.
pub fn fitting_shape(shape: [usize; 3], mm: [f64; 3], most: usize) -> [usize; 3] {
    let at = |spacing: f64| -> [usize; 3] {
        std::array::from_fn(|axis| {
            let length = shape[axis] as f64 * mm[axis];
            let voxels = (length / spacing.max(mm[axis])).ceil() as usize;
            voxels.clamp(1, shape[axis].max(1))
        })
    };
    let voxels = |spacing: f64| at(spacing).iter().product::<usize>();
    if shape.iter().product::<usize>() <= most {
        return shape;
    }
    let longest = (0..3).map(|axis| shape[axis] as f64 * mm[axis]);
    let (mut low, mut high) = (0.0, longest.fold(f64::MIN_POSITIVE, f64::max));
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if voxels(middle) > most {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(high)
}

/// Mean of the source voxels covered by each voxel of `shape` (z, y, x), weighted by the covered fraction.
pub fn mean(image: ArrayView3<f32>, shape: [usize; 3]) -> Array3<f32> {
    let (z, y, x) = image.dim();
    let covers = [(z, shape[0]), (y, shape[1]), (x, shape[2])].map(|(from, to)| cover(from, to));
    let mut result = Array3::zeros(shape);
    let planes: Vec<_> = result.axis_iter_mut(Axis(0)).zip(&covers[0]).collect();
    planes
        .into_par_iter()
        .for_each(|(mut plane, (first, shares))| {
            let mut sum = ndarray::Array2::<f32>::zeros((y, x));
            for (share, source) in shares.iter().zip(image.axis_iter(Axis(0)).skip(*first)) {
                Zip::from(&mut sum).and(&source).for_each(|sum, value| {
                    *sum += share * if value.is_finite() { *value } else { AIR_HU };
                });
            }
            for (mut row, cover) in plane.rows_mut().into_iter().zip(&covers[1]) {
                let line = mean_row(sum.view(), cover);
                for (pixel, (first, shares)) in row.iter_mut().zip(&covers[2]) {
                    let values = line.iter().skip(*first).zip(shares);
                    *pixel = values.map(|(value, share)| value * share).sum();
                }
            }
        });
    result
}

fn mean_row(plane: ArrayView2<f32>, (first, shares): &(usize, Vec<f32>)) -> Array1<f32> {
    let mut line = Array1::zeros(plane.ncols());
    for (share, row) in shares.iter().zip(plane.rows().into_iter().skip(*first)) {
        line.scaled_add(*share, &row);
    }
    line
}

/// Labels at the voxel centres of `shape` (z, y, x).
pub fn nearest(labels: ArrayView3<u16>, shape: [usize; 3]) -> Array3<u16> {
    let (z, y, x) = labels.dim();
    let at = |to: usize, from: usize, of: usize| {
        let centre = (to as f64 + 0.5) * from as f64 / of as f64;
        (centre as usize).min(from - 1)
    };
    Array3::from_shape_fn(shape, |(k, j, i)| {
        labels[[at(k, z, shape[0]), at(j, y, shape[1]), at(i, x, shape[2])]]
    })
}

fn cover(from: usize, to: usize) -> Cover {
    let step = from as f64 / to as f64;
    let one = |at: usize| {
        let (start, end) = (at as f64 * step, (at + 1) as f64 * step);
        let (first, last) = (start.floor() as usize, (end.ceil() as usize).min(from));
        let shares = (first..last).map(|source| {
            let covered = end.min(source as f64 + 1.0) - start.max(source as f64);
            (covered.max(0.0) / step) as f32
        });
        (first, shares.collect())
    };
    (0..to).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finest_axes_are_coarsened_first() {
        assert_eq!(fitting_shape([10, 20, 30], [1.0; 3], 6000), [10, 20, 30]);
        let few = fitting_shape([512, 512, 100], [0.8, 0.8, 3.0], 3_000_000);
        assert_eq!(few[2], 100, "thick slices stay");
        assert_eq!(few[0], few[1]);
        let voxels: usize = few.iter().product();
        assert!((2_900_000..=3_000_000).contains(&voxels), "{few:?}");
        assert_eq!(fitting_shape([7, 9, 11], [1.0; 3], 1), [1, 1, 1]);
    }

    #[test]
    fn means_keep_the_total_and_labels_stay_labels() {
        let image = Array3::from_shape_fn((5, 7, 9), |(z, y, x)| (z * 63 + y * 9 + x) as f32);
        let small = mean(image.view(), [3, 4, 4]);
        let [before, after] = [&image, &small].map(|a| f64::from(a.mean().unwrap()));
        assert!((before - after).abs() < 1e-3, "{before} {after}");
        assert_eq!(mean(image.view(), [5, 7, 9]), image);
        // By hand: along x 9 voxels onto 3, each the mean of three.
        let thirds = mean(image.view(), [5, 7, 3]);
        assert_eq!(thirds[[0, 0, 1]], 4.0);
        // 5 onto 2: 0, 1 and half of 2.
        let halves = mean(image.view(), [2, 7, 9]);
        assert!((halves[[0, 0, 0]] - 63.0 * (0.0 + 1.0 + 2.0 * 0.5) / 2.5).abs() < 1e-3);
        let mut holes = image.clone();
        holes[[0, 0, 0]] = f32::NAN;
        assert_eq!(mean(holes.view(), [5, 7, 9])[[0, 0, 0]], AIR_HU);
        let labels = image.mapv(|v| v as u16);
        let few = nearest(labels.view(), [5, 7, 3]);
        assert_eq!(few[[2, 3, 0]], labels[[2, 3, 1]]);
        assert_eq!(nearest(labels.view(), [5, 7, 9]), labels);
    }
}
