//! Compares one label map with its reference.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;

use crate::case_scores::{CaseScores, Structures, mask_ignored};
use crate::metrics::{Masks, StructurePair};
use crate::scores::StructureScores;
use ctseg_base::memory_semaphore::MemorySemaphore;
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
use ctseg_image::space::{Grid, GridMismatch, Reorientation, VoxelBox};

/// Voxels of a structure that share a face, edge or corner are connected.
const CONNECTIVITY: Connectivity = Connectivity::TwentySix;

/// Structures with larger bounding boxes (in voxels) are measured one at a time, each by all threads.
const LARGE: usize = 1 << 22;

/// Memory per voxel to read maps that are not read as runs: both maps and reading buffers.
const READING_BYTES: u64 = 6;

/// Memory per voxel of a structure's bounding box: masks, codes and steps, and surface elements.
const MEASURING_BYTES: u64 = 8;

/// Structures are extracted from the two maps in batches of at most this many runs.
const BATCH_RUNS: usize = 1 << 21;

/// Memory per run.
const RUN_BYTES: u64 = 16;

/// If the bounding boxes of all structures together exceed this many volumes, scattered structures are measured without
/// arrays of their boxes. Anatomy is never like this; thousands of labels all over a volume are.
const CROWDED: usize = 16;

/// A structure is scattered if its bounding box holds more than this many voxels per voxel of its own.
const SCATTERED: u64 = 64;

/// Approximate memory that all cases in progress may use together, for reading and for measuring. A larger case is
/// compared alone.
pub struct Limits {
    reading: MemorySemaphore,
    measuring: MemorySemaphore,
}

impl Limits {
    pub fn new(bytes: u64) -> Self {
        Self {
            reading: MemorySemaphore::new(bytes / 2),
            measuring: MemorySemaphore::new(bytes / 2),
        }
    }
}

/// A compared case, with scores by label value. The final list of structures is known only after all cases.
pub struct Compared {
    pub scores: BTreeMap<u16, StructureScores>,
    pub voxels: u64,
    pub case: CaseScores,
    /// A remark about the grids of prediction and reference.
    pub remark: Option<GridMismatch>,
}

/// Compares the label map at `path` with the reference of `case`.
pub fn compare(
    case: &str,
    path: &Path,
    reference: &Reference,
    structures: &Structures,
    limits: &Limits,
) -> Result<Compared> {
    let LoadedPair {
        prediction,
        truth,
        ignored,
        remark,
    } = load_pair(case, path, reference, limits)?;
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
    let scores = pair.measure(&values, &tolerances_mm, limits);
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

/// Prediction and reference on the prediction's grid, with ignored voxels set to background.
struct LoadedPair {
    prediction: LabelRuns,
    truth: LabelRuns,
    /// Number of voxels with the reference's ignore value.
    ignored: u64,
    remark: Option<GridMismatch>,
}

fn load_pair(
    case: &str,
    path: &Path,
    reference: &Reference,
    limits: &Limits,
) -> Result<LoadedPair> {
    let none = || {
        Error::file(
            path,
            format!(
                "no reference for case '{case}'; expected a label map, or an image, of the same name"
            ),
        )
    };
    if reference.ignore().is_none() && reference.path_of(case).is_some() {
        let (truth, prediction) =
            rayon::join(|| reference.load_runs(case), || read_predicted_runs(path));
        let (truth, prediction) = (truth?.ok_or_else(none)?, prediction?);
        let grid = prediction.grid;
        let (reorientation, remark) = reference.reorientation(&truth.grid, path, &grid)?;
        let bytes = match reorientation {
            Reorientation::IDENTITY => 0, // the runs are used as they are
            _ => READING_BYTES * grid.voxels() as u64,
        };
        let _permit = limits.reading.acquire(bytes);
        return Ok(LoadedPair {
            prediction,
            truth: truth.placed(grid, &reorientation),
            ignored: 0,
            remark,
        });
    }
    let voxels = predicted_voxels(path);
    let _permit = limits.reading.acquire(READING_BYTES * voxels as u64);
    let mut prediction = read_predicted(path)?;
    let truth = reference.load_on(case, path, &prediction.grid)?;
    let (mut truth, remark) = truth.ok_or_else(none)?;
    let ignored = mask_ignored(&mut prediction, &mut truth, reference.ignore());
    Ok(LoadedPair {
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
    /// Number of voxels with the reference's ignore value, background in both.
    ignored: u64,
}

/// Properties of a structure that are computed before its masks are extracted.
struct StructureInfo {
    value: u16,
    overlap: Overlap,
    /// In the prediction and in the reference.
    extents: [Extent; 2],
    /// Runs in both maps together.
    runs: usize,
    tolerance_mm: f64,
    /// Whether its voxels are too far apart to allocate arrays of its bounding box.
    scattered: bool,
}

impl StructureInfo {
    /// The smallest box that holds the structure in both maps.
    fn bounds(&self) -> Option<VoxelBox> {
        match self.extents.map(|extent| extent.bounds) {
            [Some(one), Some(other)] => Some(one.union(&other)),
            [one, other] => one.or(other),
        }
    }

    fn box_voxels(&self) -> usize {
        self.bounds().map_or(0, |bounds| bounds.voxels())
    }

    /// Number of voxels of the arrays it is measured in.
    fn array_voxels(&self) -> usize {
        if self.scattered { 0 } else { self.box_voxels() }
    }

    /// Number of its own voxels, in both maps together.
    fn voxels(&self) -> u64 {
        self.extents.iter().map(|extent| extent.voxels).sum()
    }
}

impl Pair<'_> {
    /// The scores of the structures, in the order of `values` and `tolerances_mm`.
    fn measure(
        &self,
        values: &[u16],
        tolerances_mm: &[f64],
        limits: &Limits,
    ) -> Vec<StructureScores> {
        let all = self.structure_info(values, tolerances_mm);
        let largest = all
            .iter()
            .map(StructureInfo::array_voxels)
            .max()
            .unwrap_or(0);
        let small = rayon::current_num_threads() * largest.min(LARGE);
        let runs = all.iter().map(|info| info.runs).sum::<usize>();
        let runs = runs.min(BATCH_RUNS.max(all.iter().map(|info| info.runs).max().unwrap_or(0)));
        let _permit = limits
            .measuring
            .acquire(MEASURING_BYTES * largest.max(small) as u64 + RUN_BYTES * runs as u64);
        let mut scores = Vec::with_capacity(all.len());
        for batch in batches(&all) {
            scores.extend(self.measure_batch(batch));
        }
        scores
    }

    fn structure_info(&self, values: &[u16], tolerances_mm: &[f64]) -> Vec<StructureInfo> {
        let overlaps = run_overlaps(self.prediction, self.reference, values);
        let maps = [self.prediction, self.reference];
        let extents = maps.map(|map| map.extents(values));
        let runs = maps.map(|map| map.run_counts(values));
        let infos = (0..values.len()).map(|index| StructureInfo {
            value: values[index],
            overlap: Overlap {
                true_negative: overlaps[index].true_negative - self.ignored,
                ..overlaps[index]
            },
            extents: [extents[0][index], extents[1][index]],
            runs: runs[0][index] + runs[1][index],
            tolerance_mm: tolerances_mm[index],
            scattered: false,
        });
        let mut all: Vec<StructureInfo> = infos.collect();
        let boxes: usize = all.iter().map(StructureInfo::box_voxels).sum();
        if boxes > CROWDED * self.reference.grid.voxels() {
            for info in &mut all {
                info.scattered = info.box_voxels() as u64 > SCATTERED * info.voxels();
            }
        }
        all
    }

    fn measure_batch(&self, batch: &[StructureInfo]) -> Vec<StructureScores> {
        let values: Vec<u16> = batch.iter().map(|info| info.value).collect();
        let [predictions, references] =
            [self.prediction, self.reference].map(|map| map.structures(&values));
        let is_large = |info: &StructureInfo| info.array_voxels() > LARGE;
        let of = |index: usize| self.scores(&batch[index], &predictions[index], &references[index]);
        let small = (0..batch.len())
            .into_par_iter()
            .map(|index| (!is_large(&batch[index])).then(|| of(index)));
        let found: Vec<Option<StructureScores>> = small.collect();
        let found = found.into_iter().enumerate();
        found
            .map(|(index, scores)| scores.unwrap_or_else(|| of(index)))
            .collect()
    }

    fn scores(
        &self,
        info: &StructureInfo,
        prediction: &RunMask,
        reference: &RunMask,
    ) -> StructureScores {
        let grid = &self.reference.grid;
        let masks = info.bounds().map(|bounds| Masks {
            prediction,
            reference,
            grid,
            extents: info.extents,
            surfaces: surfaces(info, &bounds, [prediction, reference], grid),
            tolerance_mm: info.tolerance_mm,
        });
        StructureScores::of(&StructurePair {
            overlap: info.overlap,
            voxel_ml: volume_ml(1, grid),
            detection: match masks {
                Some(_) => Detection::of(prediction, reference, CONNECTIVITY),
                None => Detection::default(),
            },
            masks,
        })
    }
}

fn surfaces(
    info: &StructureInfo,
    bounds: &VoxelBox,
    [prediction, reference]: [&RunMask; 2],
    grid: &Grid,
) -> SurfaceDistances {
    let spacing_mm = grid.spacing_mm();
    if info.scattered {
        return SurfaceDistances::between_scattered(prediction, reference, spacing_mm);
    }
    let [prediction, reference] = [prediction, reference].map(|mask| mask.crop(bounds));
    SurfaceDistances::between(prediction.view(), reference.view(), spacing_mm)
}

/// Batches of consecutive structures with at most [`BATCH_RUNS`] runs, at least one structure each.
fn batches(mut all: &[StructureInfo]) -> impl Iterator<Item = &[StructureInfo]> {
    std::iter::from_fn(move || {
        let mut runs = 0;
        let fitting = all.iter().take_while(|info| {
            runs += info.runs;
            runs <= BATCH_RUNS
        });
        let count = fitting.count().max(1).min(all.len());
        let (batch, rest) = all.split_at(count);
        all = rest;
        (!batch.is_empty()).then_some(batch)
    })
}
