//! Overlapping masks of independent structures, run-length encoded while logits are exported.

use std::ops::Range;

use ndarray::ArrayView3;
use rayon::prelude::*;

use super::StructureMasks;
use crate::inference::export_logits::ProbabilitySink;
use ctseg_base::{Error, Result};
use ctseg_image::labels::postprocess::{Step, apply_steps, margin};
use ctseg_image::labels::run_length_mask::RunMask;
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};
use ctseg_image::statistics::structures::{StructureStatistics, mask_statistics};

/// Threshold between outside a mask, 0, and inside, 1.
const INSIDE: f32 = 0.5;

/// The structures' masks on a volume's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct OverlappingMasks {
    grid: Grid,
    /// Label values in the order of the model's maps.
    values: Vec<u16>,
    /// Probability thresholds, in the order of the maps.
    thresholds: Vec<f64>,
    masks: Vec<RunMask>,
}

impl OverlappingMasks {
    /// Empty masks, filled as a [`ProbabilitySink`].
    pub fn new(grid: Grid, values: &[u16], thresholds: &[f64]) -> Self {
        Self {
            grid,
            values: values.to_vec(),
            thresholds: thresholds.to_vec(),
            masks: vec![RunMask::empty(grid.shape_zyx()); values.len()],
        }
    }

    /// Applies each structure's post-processing, independently of the others.
    ///
    /// # Errors
    /// A step with invalid parameters.
    pub fn postprocess(&mut self, plan: &[(u16, Vec<Step>)]) -> Result<()> {
        let mut steps = plan.iter().flat_map(|(_, steps)| steps);
        if let Some(problem) = steps.find_map(Step::problem) {
            return Err(Error::invalid(problem));
        }
        let grid = self.grid;
        self.masks
            .par_iter_mut()
            .zip(&self.values)
            .for_each(|(mask, value)| {
                if let Some((_, steps)) = plan.iter().find(|(of, _)| of == value) {
                    *mask = postprocessed(mask, &grid, steps);
                }
            });
        Ok(())
    }

    /// Statistics of the structure with this label value; `None` if the model does not have it.
    pub fn statistics(&mut self, label: u16, volume: &Volume) -> Option<StructureStatistics> {
        let at = self.values.iter().position(|value| *value == label)?;
        Some(mask_statistics(&mut self.masks[at], volume))
    }

    /// Sorts the runs; required before reading.
    pub fn sort(&mut self) {
        self.masks.par_iter_mut().for_each(RunMask::sort);
    }
}

/// Applies the steps to one mask, in the box that they can affect.
fn postprocessed(mask: &RunMask, grid: &Grid, steps: &[Step]) -> RunMask {
    let Some(bounds) = mask.bounds().filter(|_| !steps.is_empty()) else {
        return mask.clone();
    };
    let region = bounds.grown(margin(steps, grid.spacing_mm()), grid.shape);
    let part = LabelMap {
        grid: grid.cropped(&region),
        data: mask.crop(&region).mapv(u16::from),
    };
    let within = VoxelBox {
        start: std::array::from_fn(|axis| bounds.start[axis] - region.start[axis]),
        end: std::array::from_fn(|axis| bounds.end[axis] - region.start[axis]),
    };
    let found = apply_steps(&part, 1, &within, steps);
    let target = VoxelBox {
        start: std::array::from_fn(|axis| found.region.start[axis] + region.start[axis]),
        end: std::array::from_fn(|axis| found.region.end[axis] + region.start[axis]),
    };
    let mut result = RunMask::empty(grid.shape_zyx());
    let inside = found.mask.mapv(|inside| f32::from(u8::from(inside)));
    result.add(&target, inside.view(), INSIDE);
    result
}

impl ProbabilitySink for OverlappingMasks {
    fn put(&mut self, structure: usize, region: &VoxelBox, values: ArrayView3<f32>) -> Result<()> {
        let mask = self.masks.get_mut(structure);
        let mask = mask.ok_or_else(|| Error::internal("a map without a structure"))?;
        let threshold = self.thresholds.get(structure).copied().unwrap_or(0.5);
        mask.add(region, values, threshold as f32);
        Ok(())
    }
}

impl StructureMasks for OverlappingMasks {
    fn mark(&self, label: u16, voxels: Range<usize>, mask: &mut [u8]) {
        if let Some(at) = self.values.iter().position(|value| *value == label) {
            self.masks[at].mark(voxels, mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;
    use ctseg_image::labels::components::Connectivity;
    use ctseg_image::labels::postprocess::apply;

    /// Two structures that share the voxels 4 and 5 of a row, the first with an islet.
    fn masks() -> OverlappingMasks {
        let grid = Grid::with_spacing([10, 3, 2], [1.0, 2.0, 5.0]);
        let mut masks = OverlappingMasks::new(grid, &[7, 3], &[0.5, 0.5]);
        let whole = VoxelBox::whole(grid.shape);
        let row = |inside: &[usize]| {
            Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| {
                if z == 1 && y == 1 && inside.contains(&x) {
                    0.9
                } else {
                    0.5
                }
            })
        };
        masks.put(0, &whole, row(&[0, 2, 3, 4, 5]).view()).unwrap();
        masks.put(1, &whole, row(&[4, 5, 6, 7]).view()).unwrap();
        masks
    }

    fn row_of(masks: &OverlappingMasks, label: u16) -> Vec<u8> {
        let mut row = vec![0; 10];
        masks.mark(label, 40..50, &mut row);
        row
    }

    #[test]
    fn structures_share_voxels_and_are_postprocessed_independently() {
        let mut masks = masks();
        let largest = Step::LargestComponent {
            connectivity: Connectivity::Six,
        };
        masks.postprocess(&[(7, vec![largest])]).unwrap();
        masks.sort();
        assert_eq!(row_of(&masks, 7), [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
        assert_eq!(row_of(&masks, 3), [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]);
        assert_eq!(row_of(&masks, 1), [0; 10]);
        let wrong = masks.postprocess(&[(7, vec![Step::Median { voxels: 4 }])]);
        assert!(wrong.unwrap_err().to_string().contains("median"));
    }

    #[test]
    fn postprocessing_and_statistics_of_one_structure_equal_those_of_its_label_map() {
        let grid = Grid::with_spacing([10, 3, 2], [1.0, 2.0, 5.0]);
        let volume = Volume {
            grid,
            data: Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| {
                (100 * z + 10 * y + x) as f32
            }),
        };
        let mut masks = masks();
        let mut labels = LabelMap::empty(grid);
        for x in [0, 2, 3, 4, 5] {
            labels.data[[1, 1, x]] = 7;
        }
        let plan = [(7, vec![Step::Gaussian { sigma_mm: 1.0 }])];
        apply(&mut labels, &plan).unwrap();
        masks.postprocess(&plan).unwrap();
        let expected =
            ctseg_image::statistics::structures::structure_statistics(&[7], &labels, &volume);
        assert_eq!(masks.statistics(7, &volume).unwrap(), expected[0]);
        assert!(expected[0].voxels > 0);
        masks.sort();
        let mut marked = vec![0; 60];
        masks.mark(7, 0..60, &mut marked);
        let expected: Vec<u8> = labels
            .data
            .iter()
            .map(|label| u8::from(*label == 7))
            .collect();
        assert_eq!(marked, expected);
        assert!(masks.statistics(9, &volume).is_none());
    }
}
