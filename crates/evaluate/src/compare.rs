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
use ctseg_image::labels::run_length_mask::RunMask;
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

/// Structures are drawn from the two maps so many runs at a time.
const RUNS_AT_ONCE: usize = 1 << 21;

/// For each of these runs.
const RUN_BYTES: u64 = 16;

/// Where the boxes of all structures together are larger than so many volumes, structures whose box holds more than so
/// many voxels for each of their own are measured by their voxels alone: anatomy is never like this, and thousands of
/// labels all over a volume are.
const CROWDED: usize = 16;
const SCATTERED: u64 = 64;

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
    /// In both together.
    runs: usize,
    tolerance_mm: f64,
    /// Whether its voxels lie too far apart for arrays of its box.
    scattered: bool,
}

impl Known {
    /// The smallest box that holds the structure in both maps.
    fn bounds(&self) -> Option<VoxelBox> {
        match self.extents.map(|extent| extent.bounds) {
            [Some(one), Some(other)] => Some(one.joined(&other)),
            [one, other] => one.or(other),
        }
    }

    /// Voxels of the box.
    fn box_voxels(&self) -> usize {
        self.bounds().map_or(0, |bounds| bounds.voxels())
    }

    /// Voxels of the arrays in which it is measured.
    fn array_voxels(&self) -> usize {
        if self.scattered { 0 } else { self.box_voxels() }
    }

    /// Its own voxels, in both maps together.
    fn voxels(&self) -> u64 {
        self.extents.iter().map(|extent| extent.voxels).sum()
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
        let all = self.known(values, tolerances_mm);
        let largest = all.iter().map(Known::array_voxels).max().unwrap_or(0);
        let small = rayon::current_num_threads() * largest.min(LARGE);
        let runs = all.iter().map(|known| known.runs).sum::<usize>();
        let runs =
            runs.min(RUNS_AT_ONCE.max(all.iter().map(|known| known.runs).max().unwrap_or(0)));
        let _admitted = limits
            .measuring
            .admit(MEASURING_BYTES * largest.max(small) as u64 + RUN_BYTES * runs as u64);
        let mut scores = Vec::with_capacity(all.len());
        for part in parts(&all) {
            scores.extend(self.part_measured(part));
        }
        scores
    }

    fn known(&self, values: &[u16], tolerances_mm: &[f64]) -> Vec<Known> {
        let overlaps = run_overlaps(self.prediction, self.reference, values);
        let maps = [self.prediction, self.reference];
        let places = maps.map(|map| map.extents(values));
        let runs = maps.map(|map| map.run_counts(values));
        let known = (0..values.len()).map(|index| Known {
            value: values[index],
            overlap: Overlap {
                true_negative: overlaps[index].true_negative - self.ignored,
                ..overlaps[index]
            },
            extents: [places[0][index], places[1][index]],
            runs: runs[0][index] + runs[1][index],
            tolerance_mm: tolerances_mm[index],
            scattered: false,
        });
        let mut all: Vec<Known> = known.collect();
        let boxes: usize = all.iter().map(Known::box_voxels).sum();
        if boxes > CROWDED * self.reference.grid.voxels() {
            for known in &mut all {
                known.scattered = known.box_voxels() as u64 > SCATTERED * known.voxels();
            }
        }
        all
    }

    fn part_measured(&self, part: &[Known]) -> Vec<StructureScores> {
        let values: Vec<u16> = part.iter().map(|known| known.value).collect();
        let [predictions, references] =
            [self.prediction, self.reference].map(|map| map.structures(&values));
        let is_large = |known: &Known| known.array_voxels() > LARGE;
        let of = |index: usize| self.scores(&part[index], &predictions[index], &references[index]);
        let small = (0..part.len())
            .into_par_iter()
            .map(|index| (!is_large(&part[index])).then(|| of(index)));
        let found: Vec<Option<StructureScores>> = small.collect();
        let found = found.into_iter().enumerate();
        found
            .map(|(index, scores)| scores.unwrap_or_else(|| of(index)))
            .collect()
    }

    fn scores(&self, known: &Known, prediction: &RunMask, reference: &RunMask) -> StructureScores {
        let grid = &self.reference.grid;
        let none = StructureScores {
            overlap: known.overlap,
            ..StructureScores::absent(0, volume_ml(1, grid))
        };
        let Some(bounds) = known.bounds() else {
            return none;
        };
        let spacing_mm = grid.spacing_mm();
        let surfaces = if known.scattered {
            SurfaceDistances::between_scattered(prediction, reference, spacing_mm)
        } else {
            let [prediction, reference] = [prediction, reference].map(|mask| mask.cut(&bounds));
            SurfaceDistances::between(prediction.view(), reference.view(), spacing_mm)
        };
        StructureScores {
            centroid_distance_mm: distance_mm(&known.extents, grid),
            detection: Detection::of(prediction, reference, CONNECTIVITY),
            ..none.with_surfaces(&surfaces, known.tolerance_mm)
        }
    }
}

/// Structures one after the other whose runs fit into [`RUNS_AT_ONCE`], one at least.
fn parts(mut all: &[Known]) -> impl Iterator<Item = &[Known]> {
    std::iter::from_fn(move || {
        let mut runs = 0;
        let fitting = all.iter().take_while(|known| {
            runs += known.runs;
            runs <= RUNS_AT_ONCE
        });
        let count = fitting.count().max(1).min(all.len());
        let (part, rest) = all.split_at(count);
        all = rest;
        (!part.is_empty()).then_some(part)
    })
}

fn distance_mm([prediction, reference]: &[Extent; 2], grid: &Grid) -> Option<f64> {
    let (a, b) = (prediction.centroid_mm(grid)?, reference.centroid_mm(grid)?);
    let squares = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b));
    Some(squares.sum::<f64>().sqrt())
}
