//! One label map against its reference.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array3, s};
use rayon::prelude::*;

use super::scores::StructureScores;
use super::{CaseScores, Structures, forget_ignored};
use crate::arrays::components::Connectivity;
use crate::arrays::detection::Detection;
use crate::arrays::extents::{Extent, extents};
use crate::arrays::metrics::{Overlap, overlaps, recall_inside, volume_ml};
use crate::arrays::nifti::{read_header, read_labels};
use crate::arrays::surface::SurfaceDistances;
use crate::error::{Error, Result};
use crate::pipeline::reference::Reference;
use crate::pipeline::sidecar::{ModelUsed, read_sidecar};
use crate::values::{Grid, LabelMap, VoxelBox};

/// Grids of prediction and reference may differ by this much and still be one.
const TOLERANCE_MM: f64 = 0.01;

/// Parts of a structure are those that touch in any way.
const CONNECTIVITY: Connectivity = Connectivity::TwentySix;

/// Structures in boxes of more voxels are measured one after the other, by all threads.
const LARGE: usize = 1 << 22;

/// For each voxel: both maps, what reading them takes, and masks, codes and steps of a structure as large as the
/// volume.
const BYTES: u64 = 12;

/// A case before all structures are known: scores by label value.
pub struct Compared {
    pub scores: BTreeMap<u16, StructureScores>,
    pub voxels: u64,
    pub case: CaseScores,
}

/// About how much memory the comparison of a label map takes; 0 where it cannot be read, which is told later.
pub fn bytes(path: &Path) -> u64 {
    let voxels = read_header(path).map(|header| header.grid().voxels());
    BYTES * voxels.unwrap_or(0) as u64
}

/// Compares the label map at `path` with the reference of `case`.
pub fn compare(
    case: &str,
    path: &Path,
    reference: &Reference,
    structures: &Structures,
) -> Result<Compared> {
    let (prediction, truth, ignored) = both(case, path, reference)?;
    let values = match &structures.known {
        Some(structures) => structures.iter().map(|s| s.value).collect(),
        None => occurring(&prediction, &truth),
    };
    let tolerances_mm: Vec<f64> = values
        .iter()
        .map(|value| structures.tolerance_mm(*value))
        .collect();
    let scores = measured(&prediction, &truth, &values, &tolerances_mm, ignored)?;
    let sidecar = read_sidecar(path);
    let roi = sidecar.as_ref().and_then(|sidecar| sidecar.cascade.roi);
    Ok(Compared {
        scores: values.into_iter().zip(scores).collect(),
        voxels: truth.data.len() as u64 - ignored,
        case: CaseScores {
            case: case.to_owned(),
            prediction: path.to_path_buf(),
            reference: reference.path_of(case),
            image: reference
                .image_of(case)
                .or_else(|| Some(sidecar.as_ref()?.input.clone())),
            scores: Vec::new(),
            voxel_ml: volume_ml(1, &truth.grid),
            roi_recall: roi.and_then(|roi| recall_inside(&truth, &roi)),
            roi_share: roi.map(|roi| roi.voxels() as f64 / truth.data.len() as f64),
            model: sidecar.map(|sidecar| ModelUsed {
                model: sidecar.model,
                sha256: sidecar.model_sha256,
            }),
        },
    })
}

/// Prediction and reference on one grid, without what the reference says nothing of; how many voxels that is.
fn both(case: &str, path: &Path, reference: &Reference) -> Result<(LabelMap, LabelMap, u64)> {
    let ignore = reference.ignore();
    let mut reference = reference.load(case)?.ok_or_else(|| {
        Error::file(
            path,
            format!("no reference for case '{case}'; expected one label map, or one image, of the same name"),
        )
    })?;
    let (_, mut prediction) = read_labels(path)?;
    if !prediction.grid.same_as(&reference.grid, TOLERANCE_MM) {
        return Err(Error::file(
            path,
            format!(
                "lies on another grid than its reference: shape {:?} against {:?}, up to {:.2} mm apart; compare label maps of one image",
                prediction.grid.shape,
                reference.grid.shape,
                prediction.grid.largest_shift_mm(&reference.grid)
            ),
        ));
    }
    let ignored = forget_ignored(&mut prediction, &mut reference, ignore);
    Ok((prediction, reference, ignored))
}

/// The structures' scores, in the order of their `values`; of each its tolerance.
fn measured(
    prediction: &LabelMap,
    reference: &LabelMap,
    values: &[u16],
    tolerances_mm: &[f64],
    ignored: u64,
) -> Result<Vec<StructureScores>> {
    let overlaps = overlaps(prediction, reference, values)?;
    let places = [prediction, reference].map(|map| extents(map, values));
    let pair = Pair {
        prediction,
        reference,
        voxel_ml: volume_ml(1, &reference.grid),
    };
    let one = |index: usize| {
        let overlap = Overlap {
            true_negative: overlaps[index].true_negative - ignored,
            ..overlaps[index]
        };
        let extents = [&places[0][index], &places[1][index]];
        pair.scores(values[index], overlap, extents, tolerances_mm[index])
    };
    let box_of = |index: usize| {
        let joined = joined(&places[0][index], &places[1][index]);
        joined.map_or(0, |bounds| bounds.voxels())
    };
    let (large, small): (Vec<usize>, Vec<usize>) =
        (0..values.len()).partition(|index| box_of(*index) > LARGE);
    let mut found: Vec<(usize, StructureScores)> = small
        .into_par_iter()
        .map(|index| (index, one(index)))
        .collect();
    found.extend(large.into_iter().map(|index| (index, one(index))));
    found.sort_by_key(|(index, _)| *index);
    Ok(found.into_iter().map(|(_, scores)| scores).collect())
}

/// The smallest box that holds a structure in both maps.
fn joined(prediction: &Extent, reference: &Extent) -> Option<VoxelBox> {
    match (prediction.bounds, reference.bounds) {
        (Some(one), Some(other)) => Some(one.joined(&other)),
        (one, other) => one.or(other),
    }
}

/// Two label maps on one grid.
struct Pair<'a> {
    prediction: &'a LabelMap,
    reference: &'a LabelMap,
    voxel_ml: f64,
}

impl Pair<'_> {
    fn scores(
        &self,
        value: u16,
        overlap: Overlap,
        [in_prediction, in_reference]: [&Extent; 2],
        tolerance_mm: f64,
    ) -> StructureScores {
        let none = StructureScores {
            overlap,
            ..StructureScores::absent(0, self.voxel_ml)
        };
        let Some(bounds) = joined(in_prediction, in_reference) else {
            return none;
        };
        let [z, y, x] = bounds.ranges_zyx();
        let mask = |map: &LabelMap| -> Array3<bool> {
            let cut = map.data.slice(s![z.clone(), y.clone(), x.clone()]);
            cut.map(|label| *label == value)
        };
        let (prediction, reference) = (mask(self.prediction), mask(self.reference));
        let grid = &self.reference.grid;
        let detection = Detection::of(prediction.view(), reference.view(), CONNECTIVITY);
        let surfaces =
            SurfaceDistances::between(prediction.view(), reference.view(), grid.spacing_mm());
        StructureScores {
            centroid_distance_mm: distance_mm(in_prediction, in_reference, grid),
            detection,
            ..none.with_surfaces(&surfaces, tolerance_mm)
        }
    }
}

fn distance_mm(prediction: &Extent, reference: &Extent, grid: &Grid) -> Option<f64> {
    let (a, b) = (prediction.centroid_mm(grid)?, reference.centroid_mm(grid)?);
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    Some(squares.sum::<f64>().sqrt())
}

fn occurring(prediction: &LabelMap, reference: &LabelMap) -> Vec<u16> {
    let mut there = vec![false; usize::from(u16::MAX) + 1];
    prediction
        .data
        .iter()
        .chain(&reference.data)
        .for_each(|label| there[usize::from(*label)] = true);
    (1..=u16::MAX)
        .filter(|value| there[usize::from(*value)])
        .collect()
}
