//! Statistics of every structure of a label map: volume, intensities and position, in one pass over the voxels.

use ndarray::Axis;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::counts::{BINS, Counts};
use crate::labels::bounding_box::Extent;
use crate::labels::run_length_mask::RunMask;
use crate::space::{Grid, LabelMap, Volume, VoxelBox};

/// Slices per task. Fixed, so that sums do not depend on the number of threads.
const SLICES: usize = 16;

/// The first bin's intensity; values beyond the bins are counted in the nearest one.
const LOWEST_HU: i32 = -32_768;

/// Statistics of a structure on its grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StructureStatistics {
    /// Its number of voxels; 0 if the structure is absent.
    pub voxels: u64,
    /// Volume in mL, by the grid's affine.
    pub volume_ml: f64,
    /// Of the intensities as stored; this and the next two ignore non-finite values.
    pub mean_hu: Option<f64>,
    /// As NumPy's `median`, of intensities rounded to integer HU, as CT values are.
    pub median_hu: Option<f64>,
    /// Standard deviation with ddof = 0.
    pub sd_hu: Option<f64>,
    /// Mean of the voxel centres in world coordinates (RAS+).
    pub centroid_mm: Option<[f64; 3]>,
    /// Whether a voxel is on a face of the volume, so that the structure may be cut off.
    pub touches_border: bool,
    /// Bounding box of the structure.
    #[serde(skip)]
    pub bounds: Option<VoxelBox>,
}

/// The structures' statistics, in the order of `labels`; both arrays are on the image's grid.
pub fn structure_statistics(
    labels: &[u16],
    map: &LabelMap,
    image: &Volume,
) -> Vec<StructureStatistics> {
    statistics_of(labels, map, image, |hu| hu)
}

/// [`structure_statistics`] with `convert` applied to each intensity.
pub(super) fn statistics_of(
    labels: &[u16],
    map: &LabelMap,
    image: &Volume,
    convert: fn(f32) -> f32,
) -> Vec<StructureStatistics> {
    let mut slot_of = vec![u16::MAX; usize::from(u16::MAX) + 1];
    for (slot, label) in labels.iter().enumerate().filter(|(_, label)| **label > 0) {
        slot_of[usize::from(*label)] = slot as u16;
    }
    let depth = map.data.dim().0.min(image.data.dim().0);
    let parts: Vec<Vec<Option<Box<Measured>>>> = (0..depth.div_ceil(SLICES))
        .into_par_iter()
        .map(|part| {
            let mut found: Vec<Option<Box<Measured>>> = vec![None; labels.len()];
            for z in part * SLICES..depth.min((part + 1) * SLICES) {
                let map = map.data.index_axis(Axis(0), z);
                let image = image.data.index_axis(Axis(0), z);
                for ((y, x), label) in map.indexed_iter().filter(|(_, label)| **label > 0) {
                    let slot = usize::from(slot_of[usize::from(*label)]);
                    if let (Some(found), Some(hu)) = (found.get_mut(slot), image.get((y, x))) {
                        found.get_or_insert_default().add([x, y, z], convert(*hu));
                    }
                }
            }
            found
        })
        .collect();
    let mut whole: Vec<Measured> = vec![Measured::default(); labels.len()];
    for part in parts {
        for (whole, part) in whole.iter_mut().zip(part) {
            if let Some(part) = part {
                whole.merge(&part);
            }
        }
    }
    whole.iter().map(|m| m.statistics(&map.grid)).collect()
}

/// The statistics of a mask on the image's grid, as [`structure_statistics`].
pub fn mask_statistics(mask: &mut RunMask, image: &Volume) -> StructureStatistics {
    let mut found = Measured::default();
    for ([x, y, z], count) in mask.in_order() {
        for x in x..x + count {
            if let Some(hu) = image.data.get((z, y, x)) {
                found.add([x, y, z], *hu);
            }
        }
    }
    found.statistics(&image.grid)
}

/// Running sums over a structure's voxels.
#[derive(Debug, Clone, Default)]
struct Measured {
    extent: Extent,
    finite: u64,
    sum: f64,
    squares: f64,
    counts: Counts,
}

impl Measured {
    fn add(&mut self, voxel: [usize; 3], hu: f32) {
        self.extent.add_run(voxel, 1);
        if !hu.is_finite() {
            return;
        }
        self.finite += 1;
        self.sum += f64::from(hu);
        self.squares += f64::from(hu) * f64::from(hu);
        let last = i64::from(BINS) - 1;
        let bin = (hu.round() as i64 - i64::from(LOWEST_HU)).clamp(0, last);
        self.counts.add(bin as u32);
    }

    fn merge(&mut self, other: &Self) {
        self.extent.merge(&other.extent);
        self.finite += other.finite;
        self.sum += other.sum;
        self.squares += other.squares;
        self.counts.merge(&other.counts);
    }

    fn statistics(&self, grid: &Grid) -> StructureStatistics {
        let count = self.finite as f64;
        let mean = (self.finite > 0).then(|| self.sum / count);
        let Extent { voxels, bounds, .. } = self.extent;
        StructureStatistics {
            voxels,
            volume_ml: voxels as f64 * grid.voxel_volume_ml(),
            mean_hu: mean,
            median_hu: self.median(),
            sd_hu: mean.map(|mean| (self.squares / count - mean * mean).max(0.0).sqrt()),
            centroid_mm: self.extent.centroid_mm(grid),
            touches_border: bounds.is_some_and(|bounds| {
                bounds.start.contains(&0) || (0..3).any(|axis| bounds.end[axis] == grid.shape[axis])
            }),
            bounds,
        }
    }

    fn median(&self) -> Option<f64> {
        let last = self.finite.checked_sub(1)?;
        let (low, high) = (self.ranked(last / 2)?, self.ranked(last.div_ceil(2))?);
        Some((low + high) / 2.0)
    }

    /// The intensity with this rank (from 0) in ascending order.
    fn ranked(&self, rank: u64) -> Option<f64> {
        let bin = self.counts.ranked(rank)?;
        Some(f64::from(LOWEST_HU) + f64::from(bin))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use crate::space::Grid;

    #[test]
    fn statistics_match_a_hand_calculation() {
        // 5 × 4 × 40 voxels of 2 × 2 × 2.5 mm = 0.01 mL, with x to the left and the origin at (100, 0, 0).
        let mut grid = Grid::with_spacing([5, 4, 40], [2.0, 2.0, 2.5]);
        grid.affine[0] = [-2.0, 0.0, 0.0, 100.0];
        let mut map = LabelMap::empty(grid);
        let mut image = Volume {
            grid,
            data: Array3::from_elem((40, 4, 5), -1000.0),
        };
        // Four voxels in three of the tasks; the last is not finite.
        let voxels = [
            ([1, 1, 1], -5.0),
            ([2, 1, 17], 3.0),
            ([3, 2, 35], 40.0),
            ([2, 2, 35], f32::NAN),
        ];
        for ([x, y, z], hu) in voxels {
            map.data[[z, y, x]] = 300;
            image.data[[z, y, x]] = hu;
        }
        map.data[[0, 3, 4]] = 7;
        image.data[[0, 3, 4]] = 1e9;
        map.data[[20, 2, 2]] = 9;
        let found = structure_statistics(&[300, 7, 8], &map, &image);
        let [wide, corner, absent] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!((wide.voxels, wide.touches_border), (4, false));
        assert!((wide.volume_ml - 0.04).abs() < 1e-12);
        assert_eq!(wide.median_hu, Some(3.0));
        let mean = 38.0 / 3.0;
        assert!((wide.mean_hu.unwrap() - mean).abs() < 1e-12);
        let squares = 25.0 + 9.0 + 1600.0;
        let sd: f64 = squares / 3.0 - mean * mean;
        assert!((wide.sd_hu.unwrap() - sd.sqrt()).abs() < 1e-9);
        assert_eq!(wide.centroid_mm, Some([96.0, 3.0, 55.0]));
        let bounds = wide.bounds.unwrap();
        assert_eq!((bounds.start, bounds.end), ([1, 1, 1], [4, 3, 36]));
        assert_eq!((corner.voxels, corner.touches_border), (1, true));
        assert_eq!(
            (corner.mean_hu, corner.median_hu),
            (Some(1e9), Some(65_535.0))
        );
        assert_eq!((absent.voxels, absent.mean_hu), (0, None));
        assert_eq!((absent.median_hu, absent.centroid_mm), (None, None));
        // For an even number, the mean of the two middle values.
        image.data[[35, 2, 2]] = 4.0;
        let median = structure_statistics(&[300], &map, &image)[0].median_hu;
        assert_eq!(median, Some(3.5));
    }
}
