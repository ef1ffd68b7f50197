//! Postprocessing of label maps, structure by structure: components, holes, surface smoothing.

pub use super::holes::fill_holes;
pub use super::largest::keep_largest;
pub use super::small::remove_small;
pub use super::smooth::{gaussian_smoothed, median};

use std::fmt;

use ndarray::{Array3, Zip};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::components::Connectivity;
use crate::space::{LabelMap, VoxelBox};
use ctseg_base::{Error, Result};

/// One postprocessing step for one structure, as written in a recipe and `model.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Keep only the largest component.
    LargestComponent {
        /// Which voxels count as neighbours.
        #[serde(default)]
        connectivity: Connectivity,
    },
    /// Remove components smaller than `ml`.
    SmallestVolume {
        /// The smallest volume that is kept, in mL; more than 0.
        ml: f64,
        /// Which voxels count as neighbours.
        #[serde(default)]
        connectivity: Connectivity,
    },
    /// Fill background that the structure encloses.
    FillHoles {
        /// Whether a hole must be enclosed in the volume or in its slice.
        #[serde(default)]
        within: Within,
    },
    /// Smooth the mask with a Gaussian and threshold it at 0.5.
    Gaussian {
        /// Standard deviation in mm; more than 0, at most 50.
        sigma_mm: f64,
    },
    /// Median filter: a majority vote in a cube with a side of `voxels`.
    Median {
        /// Side of the cube in voxels; odd, from 3 to 15.
        voxels: usize,
    },
}

/// Where a hole must be enclosed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Within {
    /// On all sides.
    #[default]
    Volume,
    /// In its axial slice.
    Slice,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LargestComponent { .. } => write!(f, "largest component"),
            Self::SmallestVolume { ml, .. } => write!(f, "components of at least {ml} mL"),
            Self::FillHoles {
                within: Within::Volume,
            } => write!(f, "holes filled"),
            Self::FillHoles {
                within: Within::Slice,
            } => write!(f, "holes filled slice by slice"),
            Self::Gaussian { sigma_mm } => write!(f, "Gaussian smoothing, sigma {sigma_mm} mm"),
            Self::Median { voxels } => write!(f, "median filter, {voxels} voxels"),
        }
    }
}

/// The mask of one structure in a region of a label map.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Where the mask lies in the label map.
    pub region: VoxelBox,
    /// Shape (z, y, x) of the region.
    pub mask: Array3<bool>,
}

impl Step {
    /// What is invalid about the step's settings, if anything.
    pub fn problem(&self) -> Option<String> {
        let positive = |v: f64| v.is_finite() && v > 0.0;
        match self {
            Self::SmallestVolume { ml, .. } if !positive(*ml) => {
                Some(format!("smallest_volume: ml = {ml}; expected more than 0"))
            }
            Self::Gaussian { sigma_mm } if !positive(*sigma_mm) || *sigma_mm > 50.0 => Some(
                format!("gaussian: sigma_mm = {sigma_mm}; expected more than 0 and at most 50"),
            ),
            Self::Median { voxels } if voxels % 2 == 0 || !(3..=15).contains(voxels) => Some(
                format!("median: voxels = {voxels}; expected an odd number from 3 to 15"),
            ),
            _ => None,
        }
    }

    /// How many voxels along x, y, z the step reads beyond the mask.
    fn margin(&self, spacing_mm: [f64; 3]) -> [usize; 3] {
        match self {
            Self::Gaussian { sigma_mm } => {
                spacing_mm.map(|mm| super::smooth::radius(sigma_mm / mm))
            }
            Self::Median { voxels } => [voxels / 2; 3],
            _ => [0; 3],
        }
    }

    /// Applies the step. `spacing_mm` is along x, y, z of the array; `axial` is the array axis (0, 1, 2 for z, y, x)
    /// that runs along the patient.
    fn apply(&self, mask: &mut Array3<bool>, spacing_mm: [f64; 3], axial: usize) {
        match self {
            Self::LargestComponent { connectivity } => keep_largest(mask, *connectivity),
            Self::SmallestVolume { ml, connectivity } => {
                let voxel_ml = spacing_mm.iter().product::<f64>() / 1000.0;
                remove_small(mask, *ml, voxel_ml, *connectivity);
            }
            Self::FillHoles { within } => {
                fill_holes(mask, (*within == Within::Slice).then_some(axial));
            }
            Self::Gaussian { sigma_mm } => {
                let [x, y, z] = spacing_mm.map(|mm| sigma_mm / mm);
                *mask = gaussian_smoothed(mask.view(), [z, y, x]);
            }
            Self::Median { voxels } => *mask = median(mask.view(), *voxels),
        }
    }
}

/// The bounding box of each of `values`; `None` for a value that does not occur.
pub fn bounding_boxes(labels: &LabelMap, values: &[u16]) -> Vec<Option<VoxelBox>> {
    let mut slots = vec![usize::MAX; usize::from(u16::MAX) + 1];
    for (slot, value) in values.iter().enumerate() {
        slots[usize::from(*value)] = slot;
    }
    let empty = VoxelBox {
        start: [usize::MAX; 3],
        end: [0; 3],
    };
    let mut found = vec![empty; values.len()];
    for (z, plane) in labels.data.outer_iter().enumerate() {
        for (y, row) in plane.outer_iter().enumerate() {
            for (x, label) in row.iter().enumerate() {
                let Some(own) = found.get_mut(slots[usize::from(*label)]) else {
                    continue;
                };
                for (axis, index) in [x, y, z].into_iter().enumerate() {
                    own.start[axis] = own.start[axis].min(index);
                    own.end[axis] = own.end[axis].max(index + 1);
                }
            }
        }
    }
    let non_empty = |found: VoxelBox| (found.end[0] > 0).then_some(found);
    found.into_iter().map(non_empty).collect()
}

/// How many voxels along x, y, z `steps` read beyond a mask.
pub fn margin(steps: &[Step], spacing_mm: [f64; 3]) -> [usize; 3] {
    steps.iter().fold([0; 3], |sum, step| {
        let margin = step.margin(spacing_mm);
        std::array::from_fn(|axis| sum[axis] + margin[axis])
    })
}

/// Applies `steps` in order to the structure `value`, whose bounding box is `found`. It grows into background only:
/// other structures keep their voxels.
///
/// Memory: a few bytes per voxel of the box.
pub fn apply_steps(labels: &LabelMap, value: u16, found: &VoxelBox, steps: &[Step]) -> Part {
    let spacing_mm = labels.grid.spacing_mm();
    let axes = labels.grid.orientation().axes;
    // Array axes are z, y, x; the orientation's are x, y, z.
    let axial = axes
        .iter()
        .position(|world| *world == 2)
        .map_or(0, |axis| 2 - axis);
    let region = found.grown(margin(steps, spacing_mm), labels.grid.shape);
    let [z, y, x] = region.ranges_zyx();
    let own = labels.data.slice(ndarray::s![z, y, x]);
    let mut mask = own.mapv(|label| label == value);
    for step in steps {
        step.apply(&mut mask, spacing_mm, axial);
    }
    Zip::from(&mut mask)
        .and(own)
        .for_each(|inside, label| *inside &= *label == value || *label == 0);
    Part { region, mask }
}

/// Applies each structure's steps to the original map, all structures in parallel. If two grow into the same
/// background voxel, the first in `plan` gets it.
///
/// # Errors
/// A step with invalid settings.
pub fn apply(labels: &mut LabelMap, plan: &[(u16, Vec<Step>)]) -> Result<()> {
    if let Some(problem) = plan
        .iter()
        .flat_map(|(_, steps)| steps)
        .find_map(Step::problem)
    {
        return Err(Error::invalid(problem));
    }
    let values: Vec<u16> = plan.iter().map(|(value, _)| *value).collect();
    let found = bounding_boxes(labels, &values);
    let parts: Vec<(u16, Part)> = plan
        .par_iter()
        .zip(found)
        .filter(|((_, steps), _)| !steps.is_empty())
        .filter_map(|((value, steps), found)| {
            Some((*value, apply_steps(labels, *value, &found?, steps)))
        })
        .collect();
    for (value, part) in parts {
        let [z, y, x] = part.region.ranges_zyx();
        Zip::from(labels.data.slice_mut(ndarray::s![z, y, x]))
            .and(&part.mask)
            .for_each(|label, inside| {
                if *label == value && !inside {
                    *label = 0;
                } else if *label == 0 && *inside {
                    *label = value;
                }
            });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Grid;

    fn row(labels: [u16; 9]) -> LabelMap {
        LabelMap {
            grid: Grid::with_spacing([9, 1, 1], [1.0; 3]),
            data: Array3::from_shape_vec((1, 1, 9), labels.to_vec()).unwrap(),
        }
    }

    #[test]
    fn structures_grow_into_background_but_not_into_each_other() {
        let largest = Step::LargestComponent {
            connectivity: Connectivity::Six,
        };
        let mut labels = row([1, 1, 1, 0, 1, 2, 0, 2, 2]);
        apply(
            &mut labels,
            &[(1, vec![largest]), (2, vec![largest]), (7, vec![largest])],
        )
        .unwrap();
        assert_eq!(labels, row([1, 1, 1, 0, 0, 0, 0, 2, 2]));
        // Both would take the voxel between them; the first in the plan gets it. Label 3 has no steps and stays.
        let mut labels = row([1, 1, 1, 0, 2, 2, 2, 3, 0]);
        let wide = vec![Step::Gaussian { sigma_mm: 2.0 }];
        let both = [(2, wide.clone()), (1, wide)];
        let alone = apply_steps(
            &labels,
            1,
            &bounding_boxes(&labels, &[1])[0].unwrap(),
            &both[1].1,
        );
        assert!(
            alone.mask[[0, 0, 0]] && !alone.mask[[0, 0, 4]],
            "another structure is not background"
        );
        apply(&mut labels, &both).unwrap();
        assert_eq!(labels.data[[0, 0, 7]], 3);
        let error = apply(&mut labels, &[(1, vec![Step::Median { voxels: 4 }])]);
        assert!(error.unwrap_err().to_string().contains("odd"));
    }

    #[test]
    fn voxels_that_one_structure_gives_up_go_to_no_other() {
        // Label 1 gives up its speck at 4; 2 may not take it, because it was not background.
        let mut labels = row([1, 1, 1, 0, 1, 2, 2, 2, 2]);
        let largest = Step::LargestComponent {
            connectivity: Connectivity::Six,
        };
        let wide = Step::Gaussian { sigma_mm: 1.5 };
        apply(&mut labels, &[(1, vec![largest]), (2, vec![wide])]).unwrap();
        assert_eq!(labels.data[[0, 0, 4]], 0);
    }

    #[test]
    fn steps_are_serialised_by_name() {
        for (text, step) in [
            (
                r#"{"step":"largest_component","connectivity":18}"#,
                Step::LargestComponent {
                    connectivity: Connectivity::Eighteen,
                },
            ),
            (
                r#"{"step":"fill_holes","within":"slice"}"#,
                Step::FillHoles {
                    within: Within::Slice,
                },
            ),
            (
                r#"{"step":"gaussian","sigma_mm":1.5}"#,
                Step::Gaussian { sigma_mm: 1.5 },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Step>(text).unwrap(), step);
            assert_eq!(serde_json::to_string(&step).unwrap(), text);
        }
        for wrong in [
            r#"{"step":"largest_component","connectivity":8}"#,
            r#"{"step":"melt"}"#,
            r#"{"step":"median","voxels":3,"mm":1}"#,
        ] {
            assert!(serde_json::from_str::<Step>(wrong).is_err(), "{wrong}");
        }
    }
}
