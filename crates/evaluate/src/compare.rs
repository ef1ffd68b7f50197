//! One label map against its reference.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::case_scores::{CaseScores, Structures, forget_ignored};
use crate::scores::StructureScores;
use ctseg_base::memory_semaphore::Gate;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::reference::Reference;
use ctseg_core::model::identity::ModelUsed;
use ctseg_core::outputs::predicted::{predicted_voxels, read_predicted, read_predicted_runs};
use ctseg_core::outputs::sidecar::read_sidecar;
use ctseg_image::labels::bounding_box::Extent;
use ctseg_image::labels::components::Connectivity;
use ctseg_image::labels::run_length_labels::{LabelRuns, run_overlaps};
use ctseg_image::metrics::lesions::Detection;
use ctseg_image::metrics::overlap::{Overlap, volume_ml};
use ctseg_image::metrics::surface::SurfaceDistances;
use ctseg_image::space::{Grid, Remark, Turn, VoxelBox};

/// Parts of a structure are those that touch in any way.
const CONNECTIVITY: Connectivity = Connectivity::TwentySix;

/// Structures in boxes of more voxels are measured one after the other, by all threads.
const LARGE: usize = 1 << 22;

/// For each voxel while maps are read that do not come as runs: both of them, and what reading them takes.
const READING_BYTES: u64 = 6;

/// For each voxel of a structure's box: masks, codes and steps, and elements of the surface.
const MEASURING_BYTES: u64 = 8;

/// What all cases under way may take together, about, while they are read and while they are measured. A larger case is
/// compared alone.
pub struct Limits {
    reading: Gate,
    measuring: Gate,
}

impl Limits {
    pub fn new(bytes: u64) -> Self {
        Self {
            reading: Gate::new(bytes / 2),
            measuring: Gate::new(bytes / 2),
        }
    }
}

/// A case before all structures are known: scores by label value.
pub struct Compared {
    pub scores: BTreeMap<u16, StructureScores>,
    pub voxels: u64,
    pub case: CaseScores,
    /// What there is to say about the grids of prediction and reference.
    pub remark: Option<Remark>,
}

/// Compares the label map at `path` with the reference of `case`.
pub fn compare(
    case: &str,
    path: &Path,
    reference: &Reference,
    structures: &Structures,
    limits: &Limits,
) -> Result<Compared> {
    let Both {
        prediction,
        truth,
        ignored,
        remark,
    } = both(case, path, reference, limits)?;
    let values: Vec<u16> = match &structures.known {
        Some(structures) => structures.iter().map(|s| s.value).collect(),
        None => prediction
            .labels()
            .union(&truth.labels())
            .copied()
            .collect(),
    };
    let tolerances_mm: Vec<f64> = values
        .iter()
        .map(|value| structures.tolerance_mm(*value))
        .collect();
    let pair = Pair {
        prediction: &prediction,
        reference: &truth,
        ignored,
    };
    let scores = pair.measured(&values, &tolerances_mm, limits);
    let sidecar = read_sidecar(path);
    let roi = sidecar.as_ref().and_then(|sidecar| sidecar.cascade.roi);
    Ok(Compared {
        remark,
        scores: values.into_iter().zip(scores).collect(),
        voxels: truth.grid.voxels() as u64 - ignored,
        case: CaseScores {
            case: case.to_owned(),
            prediction: path.to_path_buf(),
            reference: reference.path_of(case),
            image: reference
                .image_of(case)
                .or_else(|| Some(sidecar.as_ref()?.input.clone())),
            scores: Vec::new(),
            voxel_ml: volume_ml(1, &truth.grid),
            roi_recall: roi.and_then(|roi| truth.recall_inside(&roi)),
            roi_share: roi.map(|roi| roi.voxels() as f64 / truth.grid.voxels() as f64),
            model: sidecar.map(|sidecar| ModelUsed {
                model: sidecar.model,
                sha256: sidecar.model_sha256,
            }),
        },
    })
}

/// Prediction and reference on the prediction's grid, without what the reference says nothing of.
struct Both {
    prediction: LabelRuns,
    truth: LabelRuns,
    /// How many voxels the reference says nothing of.
    ignored: u64,
    remark: Option<Remark>,
}

fn both(case: &str, path: &Path, reference: &Reference, limits: &Limits) -> Result<Both> {
    let none = || {
        Error::file(
            path,
            format!(
                "no reference for case '{case}'; expected one label map, or one image, of the same name"
            ),
        )
    };
    if reference.ignore().is_none() && reference.path_of(case).is_some() {
        let (truth, prediction) =
            rayon::join(|| reference.load_runs(case), || read_predicted_runs(path));
        let (truth, prediction) = (truth?.ok_or_else(none)?, prediction?);
        let grid = prediction.grid;
        let (turn, remark) = reference.turn(&truth.grid, (path, &grid))?;
        let bytes = match turn {
            Turn::NONE => 0, // no map is in memory
            _ => READING_BYTES * grid.voxels() as u64,
        };
        let _admitted = limits.reading.admit(bytes);
        return Ok(Both {
            prediction,
            truth: truth.placed(grid, &turn),
            ignored: 0,
            remark,
        });
    }
    let voxels = predicted_voxels(path);
    let _admitted = limits.reading.admit(READING_BYTES * voxels as u64);
    let mut prediction = read_predicted(path)?;
    let truth = reference.load_on(case, (path, &prediction.grid))?;
    let (mut truth, remark) = truth.ok_or_else(none)?;
    let ignored = forget_ignored(&mut prediction, &mut truth, reference.ignore());
    Ok(Both {
        prediction: LabelRuns::from(&prediction),
        truth: LabelRuns::from(&truth),
        ignored,
        remark,
    })
}

/// Two label maps on one grid.
struct Pair<'a> {
    prediction: &'a LabelRuns,
    reference: &'a LabelRuns,
    /// Voxels that are background in both because the reference says nothing of them.
    ignored: u64,
}

/// What is known of a structure before its masks are drawn.
struct Known {
    value: u16,
    overlap: Overlap,
    /// In the prediction and in the reference.
    extents: [Extent; 2],
    tolerance_mm: f64,
}

impl Known {
    /// The smallest box that holds the structure in both maps.
    fn bounds(&self) -> Option<VoxelBox> {
        match self.extents.map(|extent| extent.bounds) {
            [Some(one), Some(other)] => Some(one.joined(&other)),
            [one, other] => one.or(other),
        }
    }

    fn voxels(&self) -> usize {
        self.bounds().map_or(0, |bounds| bounds.voxels())
    }
}

impl Pair<'_> {
    /// The structures' scores, in the order of their `values`; of each its tolerance.
    fn measured(
        &self,
        values: &[u16],
        tolerances_mm: &[f64],
        limits: &Limits,
    ) -> Vec<StructureScores> {
        let overlaps = run_overlaps(self.prediction, self.reference, values);
        let places = [self.prediction, self.reference].map(|map| map.extents(values));
        let all: Vec<Known> = (0..values.len())
            .map(|index| Known {
                value: values[index],
                overlap: Overlap {
                    true_negative: overlaps[index].true_negative - self.ignored,
                    ..overlaps[index]
                },
                extents: [places[0][index], places[1][index]],
                tolerance_mm: tolerances_mm[index],
            })
            .collect();
        let largest = all.iter().map(Known::voxels).max().unwrap_or(0);
        let small = rayon::current_num_threads() * largest.min(LARGE);
        let _admitted = limits
            .measuring
            .admit(MEASURING_BYTES * largest.max(small) as u64);
        let is_large = |known: &Known| known.voxels() > LARGE;
        let small = all
            .par_iter()
            .map(|known| (!is_large(known)).then(|| self.scores(known)));
        let found: Vec<Option<StructureScores>> = small.collect();
        let found = found.into_iter().zip(&all);
        found
            .map(|(scores, known)| scores.unwrap_or_else(|| self.scores(known)))
            .collect()
    }

    fn scores(&self, known: &Known) -> StructureScores {
        let grid = &self.reference.grid;
        let none = StructureScores {
            overlap: known.overlap,
            ..StructureScores::absent(0, volume_ml(1, grid))
        };
        let Some(bounds) = known.bounds() else {
            return none;
        };
        let [prediction, reference] =
            [self.prediction, self.reference].map(|map| map.mask(&bounds, known.value));
        let detection = Detection::of(prediction.view(), reference.view(), CONNECTIVITY);
        let surfaces =
            SurfaceDistances::between(prediction.view(), reference.view(), grid.spacing_mm());
        StructureScores {
            centroid_distance_mm: distance_mm(&known.extents, grid),
            detection,
            ..none.with_surfaces(&surfaces, known.tolerance_mm)
        }
    }
}

fn distance_mm([prediction, reference]: &[Extent; 2], grid: &Grid) -> Option<f64> {
    let (a, b) = (prediction.centroid_mm(grid)?, reference.centroid_mm(grid)?);
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    Some(squares.sum::<f64>().sqrt())
}
