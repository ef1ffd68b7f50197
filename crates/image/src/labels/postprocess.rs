//! Clean-up of label maps, structure by structure: components, holes, rough surfaces.

pub use super::holes::fill_holes;
pub use super::largest::keep_largest;
pub use super::small::drop_small;
pub use super::smooth::{gaussian_at_half, median};

use std::fmt;

use ndarray::{Array3, Zip};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::components::Connectivity;
use crate::space::{LabelMap, VoxelBox};
use ctseg_base::{Error, Result};

/// One step of clean-up of one structure, as a recipe and `model.toml` write it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Only the largest component is kept.
    LargestComponent {
        #[serde(default)]
        connectivity: Connectivity,
    },
    /// Components of less than so much volume are dropped.
    SmallestVolume {
        ml: f64,
        #[serde(default)]
        connectivity: Connectivity,
    },
    /// Background that the structure encloses becomes the structure.
    FillHoles {
        #[serde(default)]
        within: Within,
    },
    /// The mask is blurred, and what is above one half is the structure.
    Gaussian { sigma_mm: f64 },
    /// What most of the voxels in a cube with this side say.
    Median { voxels: usize },
}

/// Where something must be enclosed to be a hole.
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
            Self::SmallestVolume { ml, .. } => write!(f, "components from {ml} mL"),
            Self::FillHoles {
                within: Within::Volume,
            } => write!(f, "holes filled"),
            Self::FillHoles {
                within: Within::Slice,
            } => write!(f, "holes of slices filled"),
            Self::Gaussian { sigma_mm } => write!(f, "Gaussian of {sigma_mm} mm"),
            Self::Median { voxels } => write!(f, "median of {voxels} voxels"),
        }
    }
}

/// The part of a label map that one structure takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub region: VoxelBox,
    /// (z, y, x) of the region
    pub mask: Array3<bool>,
}

impl Step {
    /// What cannot work about it, if anything.
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

    /// How many voxels along x, y, z beyond its mask the step looks at.
    fn reach(&self, spacing_mm: [f64; 3]) -> [usize; 3] {
        match self {
            Self::Gaussian { sigma_mm } => {
                spacing_mm.map(|mm| super::smooth::radius(sigma_mm / mm))
            }
            Self::Median { voxels } => [voxels / 2; 3],
            _ => [0; 3],
        }
    }

    /// `spacing_mm` along x, y, z of the array, `axial` its array axis (0, 1, 2 for z, y, x) that runs along the
    /// patient.
    fn run(&self, mask: &mut Array3<bool>, spacing_mm: [f64; 3], axial: usize) {
        match self {
            Self::LargestComponent { connectivity } => keep_largest(mask, *connectivity),
            Self::SmallestVolume { ml, connectivity } => {
                let voxel_ml = spacing_mm.iter().product::<f64>() / 1000.0;
                drop_small(mask, *ml, voxel_ml, *connectivity);
            }
            Self::FillHoles { within } => {
                fill_holes(mask, (*within == Within::Slice).then_some(axial));
            }
            Self::Gaussian { sigma_mm } => {
                let [x, y, z] = spacing_mm.map(|mm| sigma_mm / mm);
                *mask = gaussian_at_half(mask.view(), [z, y, x]);
            }
            Self::Median { voxels } => *mask = median(mask.view(), *voxels),
        }
    }
}

/// The boxes around the voxels of each of `values`; `None` for one that does not occur.
pub fn boxes(labels: &LabelMap, values: &[u16]) -> Vec<Option<VoxelBox>> {
    let mut slots = vec![usize::MAX; usize::from(u16::MAX) + 1];
    for (slot, value) in values.iter().enumerate() {
        slots[usize::from(*value)] = slot;
    }
    let nothing = VoxelBox {
        start: [usize::MAX; 3],
        end: [0; 3],
    };
    let mut found = vec![nothing; values.len()];
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
    let some = |found: VoxelBox| (found.end[0] > 0).then_some(found);
    found.into_iter().map(some).collect()
}

/// How many voxels along x, y, z beyond a mask `steps` look at.
pub fn reach(steps: &[Step], spacing_mm: [f64; 3]) -> [usize; 3] {
    steps.iter().fold([0; 3], |margin, step| {
        let reach = step.reach(spacing_mm);
        std::array::from_fn(|axis| margin[axis] + reach[axis])
    })
}

/// What `steps` make, one after the other, of the structure `value`, which lies inside `found`. It grows into
/// background only: other structures keep what they have.
///
/// Memory: a few bytes for each voxel of the box.
pub fn processed(labels: &LabelMap, value: u16, found: &VoxelBox, steps: &[Step]) -> Part {
    let spacing_mm = labels.grid.spacing_mm();
    let axes = labels.grid.orientation().axes;
    // Array axes are z, y, x; the orientation's are x, y, z.
    let axial = axes
        .iter()
        .position(|world| *world == 2)
        .map_or(0, |axis| 2 - axis);
    let region = found.grown(reach(steps, spacing_mm), labels.grid.shape);
    let [z, y, x] = region.ranges_zyx();
    let own = labels.data.slice(ndarray::s![z, y, x]);
    let mut mask = own.mapv(|label| label == value);
    for step in steps {
        step.run(&mut mask, spacing_mm, axial);
    }
    Zip::from(&mut mask)
        .and(own)
        .for_each(|inside, label| *inside &= *label == value || *label == 0);
    Part { region, mask }
}

/// Runs each structure's steps, structures side by side, all on the map as it comes. Where two grow into one
/// voxel of background, the one named first has it.
///
/// # Errors
/// A step whose numbers cannot work.
pub fn apply(labels: &mut LabelMap, plan: &[(u16, Vec<Step>)]) -> Result<()> {
    if let Some(problem) = plan
        .iter()
        .flat_map(|(_, steps)| steps)
        .find_map(Step::problem)
    {
        return Err(Error::invalid(problem));
    }
    let values: Vec<u16> = plan.iter().map(|(value, _)| *value).collect();
    let found = boxes(labels, &values);
    let parts: Vec<(u16, Part)> = plan
        .par_iter()
        .zip(found)
        .filter(|((_, steps), _)| !steps.is_empty())
        .filter_map(|((value, steps), found)| {
            Some((*value, processed(labels, *value, &found?, steps)))
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
    fn structures_take_background_and_nothing_of_each_other() {
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
        // Both would take the voxel between them; the first named gets it. Label 3 has no steps and stays.
        let mut labels = row([1, 1, 1, 0, 2, 2, 2, 3, 0]);
        let wide = vec![Step::Gaussian { sigma_mm: 2.0 }];
        let both = [(2, wide.clone()), (1, wide)];
        let alone = processed(&labels, 1, &boxes(&labels, &[1])[0].unwrap(), &both[1].1);
        assert!(
            alone.mask[[0, 0, 0]] && !alone.mask[[0, 0, 4]],
            "another structure is no background"
        );
        apply(&mut labels, &both).unwrap();
        assert_eq!(labels.data[[0, 0, 7]], 3);
        let error = apply(&mut labels, &[(1, vec![Step::Median { voxels: 4 }])]);
        assert!(error.unwrap_err().to_string().contains("odd"));
    }

    #[test]
    fn background_is_given_once_whatever_was_let_go_beside_it() {
        // 1 lets its speck at 4 go; 2 may not take it, because it was not background.
        let mut labels = row([1, 1, 1, 0, 1, 2, 2, 2, 2]);
        let largest = Step::LargestComponent {
            connectivity: Connectivity::Six,
        };
        let wide = Step::Gaussian { sigma_mm: 1.5 };
        apply(&mut labels, &[(1, vec![largest]), (2, vec![wide])]).unwrap();
        assert_eq!(labels.data[[0, 0, 4]], 0);
    }

    #[test]
    fn steps_are_written_and_read_by_name() {
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
