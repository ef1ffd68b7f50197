//! Dataset fingerprint: spacings, extents, foreground intensities, structure volumes, and the share of a scan
//! that they span (nnU-Net's `DatasetFingerprintExtractor`, plus what two stages need).

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Dataset, LoadedCase};
use ctseg_base::cancel::catch_panic;
use ctseg_base::progress::Observer;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_image::space::Orientation;
use ctseg_image::statistics::histogram::Histogram;
use ctseg_image::statistics::hounsfield::Suspicion;

/// Statistics of a dataset. Axes are x (left–right), y, z.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fingerprint {
    pub dataset: String,
    pub cases: Vec<CaseStats>,
    /// Cases that could not be read, and why; left out of all statistics.
    pub unreadable: Vec<(String, String)>,
    /// Cases whose values do not look like Hounsfield units, and why; left out of `foreground_hu`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_hu: Vec<(String, String)>,
    /// Over all voxels of all structures; none without such voxels.
    pub foreground_hu: Option<Intensities>,
    /// Median over the cases, axis by axis.
    pub median_spacing_mm: [f64; 3],
    pub median_extent_mm: [f64; 3],
    /// Size of the bounding box of all structures: median and 95th percentile over the cases.
    pub median_foreground_mm: [f64; 3],
    pub large_foreground_mm: [f64; 3],
    /// Median share of the scan's volume in this box.
    pub median_foreground_share: f64,
    /// By structure: number of cases with it, and its median volume (mL) in them.
    pub structures: BTreeMap<String, StructureStats>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseStats {
    pub case: String,
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    /// Size of the bounding box of all structures; none without structures.
    pub foreground_mm: Option<[f64; 3]>,
    /// By structure; only those present.
    pub volumes_ml: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StructureStats {
    pub cases: usize,
    pub median_ml: f64,
}

/// Statistics of Hounsfield units; percentiles by linear interpolation as in NumPy, of values rounded to
/// integers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Intensities {
    pub voxels: u64,
    pub mean: f64,
    pub sd: f64,
    pub min: f64,
    pub max: f64,
    pub median: f64,
    pub percentile_00_5: f64,
    pub percentile_99_5: f64,
}

impl Fingerprint {
    /// Reads all training cases in parallel. Unreadable cases are listed and left out.
    ///
    /// # Errors
    /// No case can be read.
    pub fn of(dataset: &Dataset, observer: &dyn Observer) -> Result<Self> {
        let cases = dataset.training_cases();
        let task = observer.task("reading the data", cases.len() as u64, "cases");
        let read: Vec<Result<ReadCase>> = cases
            .par_iter()
            .map(|case| {
                let read = catch_panic(|| ReadCase::of(dataset, *case));
                task.advance(1);
                read
            })
            .collect();
        drop(task);
        let (mut stats, mut unreadable, mut not_hu) = (Vec::new(), Vec::new(), Vec::new());
        let mut foreground = Histogram::hounsfield();
        for (case, read) in cases.iter().zip(read) {
            match read {
                Ok(read) => {
                    match read.suspicion {
                        None => foreground.merge(&read.foreground),
                        Some(suspicion) => {
                            let why = suspicion.warning();
                            observer.warn(&format!("{}: {why}", read.stats.case));
                            not_hu.push((read.stats.case.clone(), why));
                        }
                    }
                    stats.push(read.stats);
                }
                Err(error) => {
                    observer.warn(&format!("skipped: {error}"));
                    unreadable.push((dataset.cases[*case].id.clone(), error.to_string()));
                }
            }
        }
        if stats.is_empty() {
            return Err(Error::invalid(format!(
                "dataset '{}': none of {} with labels can be read; first error: {}",
                dataset.name,
                counted(cases.len(), "case"),
                unreadable.first().map_or("no such case", |(_, why)| why)
            )));
        }
        Ok(Self {
            not_hu,
            ..Self::aggregate(dataset, stats, unreadable, &foreground)
        })
    }

    fn aggregate(
        dataset: &Dataset,
        cases: Vec<CaseStats>,
        unreadable: Vec<(String, String)>,
        foreground: &Histogram,
    ) -> Self {
        let axes = |of: &dyn Fn(&CaseStats, usize) -> Option<f64>, percent: f64| {
            std::array::from_fn(|axis| {
                percentile(cases.iter().filter_map(|case| of(case, axis)), percent)
            })
        };
        let extent =
            |case: &CaseStats, axis: usize| case.shape[axis] as f64 * case.spacing_mm[axis];
        let foreground_mm = |case: &CaseStats, axis: usize| case.foreground_mm.map(|mm| mm[axis]);
        let share = |case: &CaseStats| {
            let mm = case.foreground_mm?;
            Some((0..3).map(|axis| mm[axis] / extent(case, axis)).product())
        };
        let structures = dataset.structures.iter().map(|structure| {
            let volumes = || {
                cases
                    .iter()
                    .filter_map(|case| case.volumes_ml.get(&structure.name))
            };
            let stats = StructureStats {
                cases: volumes().count(),
                median_ml: percentile(volumes().copied(), 50.0),
            };
            (structure.name.clone(), stats)
        });
        Self {
            dataset: dataset.name.clone(),
            unreadable,
            not_hu: Vec::new(),
            foreground_hu: Intensities::of(foreground),
            median_spacing_mm: axes(&|case, axis| Some(case.spacing_mm[axis]), 50.0),
            median_extent_mm: axes(&|case, axis| Some(extent(case, axis)), 50.0),
            median_foreground_mm: axes(&foreground_mm, 50.0),
            large_foreground_mm: axes(&foreground_mm, 95.0),
            median_foreground_share: percentile(cases.iter().filter_map(share), 50.0),
            structures: structures.collect(),
            cases,
        }
    }
}

/// Statistics of one case, and its foreground histogram.
struct ReadCase {
    stats: CaseStats,
    /// Values of all voxels of all structures.
    foreground: Histogram,
    suspicion: Option<Suspicion>,
}

impl ReadCase {
    fn of(dataset: &Dataset, case: usize) -> Result<Self> {
        let case = &dataset.cases[case];
        let mut loaded = dataset.load(case)?;
        loaded.labels = dataset.without_ignored(loaded.labels);
        let (stats, foreground) = case_stats(dataset, &case.id, &loaded);
        let suspicion = Suspicion::of(loaded.volume.data.view(), None);
        Ok(Self {
            stats,
            foreground,
            suspicion: suspicion.filter(|_| dataset.is_ct()),
        })
    }
}

fn case_stats(dataset: &Dataset, id: &str, loaded: &LoadedCase) -> (CaseStats, Histogram) {
    let grid = loaded.volume.grid;
    let ras = grid.reoriented(Orientation::RAS);
    let mut counts = vec![0u64; usize::from(u16::MAX) + 1];
    let mut foreground = Histogram::hounsfield();
    for (label, hu) in loaded.labels.data.iter().zip(&loaded.volume.data) {
        counts[usize::from(*label)] += 1;
        if *label > 0 && hu.is_finite() {
            foreground.add(*hu);
        }
    }
    let voxel_ml = grid.voxel_volume_ml();
    let present = dataset.structures.iter().filter_map(|structure| {
        let voxels = counts[usize::from(structure.value)];
        (voxels > 0).then(|| (structure.name.clone(), voxels as f64 * voxel_ml))
    });
    let volumes_ml = present.collect();
    let (order, spacing) = (grid.orientation().axes, grid.spacing_mm());
    let foreground_mm = loaded.labels.bounding_box(|label| label > 0).map(|found| {
        let mut mm = [0.0; 3];
        for (axis, world) in order.into_iter().enumerate() {
            mm[world] = (found.end[axis] - found.start[axis]) as f64 * spacing[axis];
        }
        mm
    });
    let stats = CaseStats {
        case: id.to_owned(),
        shape: ras.shape,
        spacing_mm: ras.spacing_mm(),
        foreground_mm,
        volumes_ml,
    };
    (stats, foreground)
}

impl Intensities {
    fn of(histogram: &Histogram) -> Option<Self> {
        let (mean, sd) = histogram.mean_and_sd()?;
        let (min, max) = histogram.range()?;
        let at = |percent: f64| histogram.percentile(percent).unwrap_or(f64::NAN);
        Some(Self {
            voxels: histogram.count(),
            mean,
            sd,
            min,
            max,
            median: at(50.0),
            percentile_00_5: at(0.5),
            percentile_99_5: at(99.5),
        })
    }
}

/// Percentile by linear interpolation, as in NumPy; 0 for no values.
pub fn percentile(values: impl Iterator<Item = f64>, percent: f64) -> f64 {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let at = percent / 100.0 * last as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(last);
    values[low] + (at - low as f64) * (values[high] - values[low])
}
