//! Finds the largest patch and batch that fit into memory.

use super::topology::Topology;
use ctseg_base::Result;

/// nnU-Net's initial patch size along each axis, at isotropic spacing.
const FIRST_SIDE_3D: f64 = 256.0;
const FIRST_SIDE_2D: f64 = 2048.0;

/// Constraints on a patch. Axes are (z,) y, x.
pub struct PatchConstraints<'a> {
    pub spacing_mm: &'a [f64],
    /// Size of the network's input at inference, in voxels; the patch need not be larger.
    pub case_voxels: &'a [f64],
    /// Batch sizes to choose from, the smallest first.
    pub batch_sizes: &'a [usize],
    /// Maximum number of levels below the first.
    pub max_halvings: usize,
}

/// A patch with its topology and batch size.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedPatch {
    pub topology: Topology,
    pub batch_size: usize,
    /// Whether the patch covers the whole case.
    pub covers_case: bool,
    /// Whether it fits into the memory; false if even the smallest patch does not.
    pub fits: bool,
}

/// Starts with a patch that is equally large in mm along all axes, no larger than the case, and shrinks the axis that
/// covers most of the case until the smallest batch fits (as nnU-Net does); then takes the largest batch that fits.
///
/// `fits` tests a topology with a batch size.
pub fn fit_patch(
    constraints: &PatchConstraints,
    fits: impl Fn(&Topology, usize) -> Result<bool>,
) -> Result<FittedPatch> {
    const SMALLEST: usize = 16;
    let spacing = constraints.spacing_mm;
    let mut patch = first_patch(constraints);
    let of = |patch: &[usize]| Topology::of(spacing, patch, constraints.max_halvings);
    let mut topology = of(&patch);
    let smallest = constraints.batch_sizes[0];
    let mut fit = fits(&topology, smallest)?;
    while !fit {
        patch.clone_from(&topology.patch);
        let coverage = |axis: usize| patch[axis] as f64 / constraints.case_voxels[axis].max(1.0);
        let shrinkable = |axis: &usize| patch[*axis] > SMALLEST;
        let Some(axis) = (0..patch.len())
            .filter(shrinkable)
            .max_by(|a, b| coverage(*a).total_cmp(&coverage(*b)))
        else {
            break;
        };
        // The step follows the shrunk patch: with fewer levels more sizes are possible.
        let mut tried = patch.clone();
        tried[axis] = tried[axis].saturating_sub(topology.multiple[axis]).max(8);
        patch[axis] = patch[axis].saturating_sub(of(&tried).multiple[axis]).max(8);
        let mut smaller = of(&patch);
        if smaller.patch[axis] >= topology.patch[axis] {
            // It was rounded up again to a multiple.
            smaller = of(&tried);
        }
        topology = smaller;
        fit = fits(&topology, smallest)?;
    }
    let mut batch_size = smallest;
    for larger in &constraints.batch_sizes[1..] {
        if fit && fits(&topology, *larger)? {
            batch_size = *larger;
        }
    }
    let covers_case = topology
        .patch
        .iter()
        .zip(constraints.case_voxels)
        .all(|(side, case)| *side as f64 >= case.floor());
    Ok(FittedPatch {
        topology,
        batch_size,
        covers_case,
        fits: fit,
    })
}

/// A patch that is equally large in mm along all axes, and no larger than the case.
fn first_patch(constraints: &PatchConstraints) -> Vec<usize> {
    let spacing = constraints.spacing_mm;
    let first_side = if spacing.len() == 3 {
        FIRST_SIDE_3D
    } else {
        FIRST_SIDE_2D
    };
    let mean_spacing = spacing
        .iter()
        .product::<f64>()
        .powf(1.0 / spacing.len() as f64);
    spacing
        .iter()
        .zip(constraints.case_voxels)
        .map(|(mm, case)| {
            (first_side * mean_spacing / mm)
                .min(case.ceil())
                .round()
                .max(8.0) as usize
        })
        .collect()
}
