//! The largest patch and batch that fit into memory.

use super::topology::Topology;
use ctseg_base::Result;

/// Voxels of nnU-Net's first try, along each axis of an isotropic patch.
const FIRST_SIDE_3D: f64 = 256.0;
const FIRST_SIDE_2D: f64 = 2048.0;

/// What is asked of a patch. Axes are (z,) y, x.
pub struct Wanted<'a> {
    pub spacing_mm: &'a [f64],
    /// Voxels of what the network looks at in use; a patch need not be larger.
    pub case: &'a [f64],
    /// Batches to choose from, the smallest first.
    pub batches: &'a [usize],
    /// The most levels below the first.
    pub halvings: usize,
}

/// A patch with its network and batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    pub topology: Topology,
    pub batch: usize,
    /// Whether all of `case` fits into the patch.
    pub whole: bool,
    /// Whether even the smallest patch fits into the memory.
    pub fits: bool,
}

/// Begins with a patch that is as wide in mm along all axes, no larger than the case, and shrinks the axis that sees
/// most of the case until the smallest batch fits (nnU-Net's way); then the largest batch that fits is taken.
///
/// `fits` says whether a topology with a batch does.
pub fn fitted(wanted: &Wanted, fits: impl Fn(&Topology, usize) -> Result<bool>) -> Result<Fitted> {
    const SMALLEST: usize = 16;
    let spacing = wanted.spacing_mm;
    let mut patch = first_patch(wanted);
    let of = |patch: &[usize]| Topology::of(spacing, patch, wanted.halvings);
    let mut topology = of(&patch);
    let smallest = wanted.batches[0];
    let mut fit = fits(&topology, smallest)?;
    while !fit {
        patch.clone_from(&topology.patch);
        let seen = |axis: usize| patch[axis] as f64 / wanted.case[axis].max(1.0);
        let shrinkable = |axis: &usize| patch[*axis] > SMALLEST;
        let Some(axis) = (0..patch.len())
            .filter(shrinkable)
            .max_by(|a, b| seen(*a).total_cmp(&seen(*b)))
        else {
            break;
        };
        // A step of the shrunk patch's own: fewer levels divide more sizes.
        let mut tried = patch.clone();
        tried[axis] = tried[axis].saturating_sub(topology.multiple[axis]).max(8);
        patch[axis] = patch[axis].saturating_sub(of(&tried).multiple[axis]).max(8);
        let mut smaller = of(&patch);
        if smaller.patch[axis] >= topology.patch[axis] {
            // It grew back to what its levels divide.
            smaller = of(&tried);
        }
        topology = smaller;
        fit = fits(&topology, smallest)?;
    }
    let mut batch = smallest;
    for larger in &wanted.batches[1..] {
        if fit && fits(&topology, *larger)? {
            batch = *larger;
        }
    }
    let whole = topology
        .patch
        .iter()
        .zip(wanted.case)
        .all(|(side, case)| *side as f64 >= case.floor());
    Ok(Fitted {
        topology,
        batch,
        whole,
        fits: fit,
    })
}

/// As wide in mm along all axes, and no larger than the case.
fn first_patch(wanted: &Wanted) -> Vec<usize> {
    let spacing = wanted.spacing_mm;
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
        .zip(wanted.case)
        .map(|(mm, case)| {
            (first_side * mean_spacing / mm)
                .min(case.ceil())
                .round()
                .max(8.0) as usize
        })
        .collect()
}
