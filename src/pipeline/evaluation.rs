//! Label maps against references: metrics per case and structure, to `metrics.csv` and `summary.json`.

mod told;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::dataset::Structure;
use super::guard::guarded;
use super::observer::Observer;
use super::predict::Failure;
use super::reference::{Reference, label_maps};
use super::sampling::UNION;
use super::sidecar::{ModelUsed, read_sidecar};
use crate::arrays::metrics::{Overlap, Summary, overlaps, recall_inside, volume_ml};
use crate::arrays::nifti::read_labels;
use crate::error::{Error, Result};
use crate::files::write_bytes_atomically;
use crate::values::LabelMap;

/// A metric of one case and structure; none where it is undefined.
type Metric = fn(&Overlap) -> Option<f64>;

/// The metrics, in the order of their columns.
const METRICS: [(&str, Metric); 5] = [
    ("dice", Overlap::dice),
    ("iou", Overlap::iou),
    ("precision", Overlap::precision),
    ("recall", Overlap::recall),
    ("accuracy", Overlap::accuracy),
];

/// Grids of prediction and reference may differ by this much and still be one.
const TOLERANCE_MM: f64 = 0.01;

/// One case's comparison.
#[derive(Debug, Clone)]
pub struct CaseScores {
    pub case: String,
    /// One per structure of the evaluation.
    pub overlaps: Vec<Overlap>,
    pub voxel_ml: f64,
    /// Share of the reference's foreground inside stage 1's region, where the prediction tells its region.
    pub roi_recall: Option<f64>,
    /// The region's share of the volume.
    pub roi_share: Option<f64>,
    /// What the prediction was made by, where it tells.
    pub model: Option<ModelUsed>,
}

/// All cases' comparisons.
#[derive(Debug, Clone)]
pub struct Evaluation {
    pub structures: Vec<Structure>,
    pub cases: Vec<CaseScores>,
    pub failures: Vec<Failure>,
    /// References that have no prediction.
    pub missing: Vec<String>,
}

/// Compares every prediction with its reference. A case that fails is listed and the rest go on.
///
/// # Errors
/// Nothing to compare at all.
pub fn evaluate(
    prediction: &Path,
    reference: &Reference,
    observer: &dyn Observer,
) -> Result<Evaluation> {
    let mut predictions = label_maps(prediction)?;
    if let (Reference::Files(files), 1, true) = (reference, predictions.len(), prediction.is_file())
    {
        // Two single files are compared whatever their names.
        if let (1, Some((name, _))) = (files.len(), files.iter().next())
            && let Some((_, path)) = predictions.pop_first()
        {
            predictions.insert(name.clone(), path);
        }
    }
    if predictions.is_empty() {
        return Err(Error::file(
            prediction,
            "no label map found; expected a .nii or .nii.gz file or a folder of them",
        ));
    }
    let task = observer.task("comparing", predictions.len() as u64, "cases");
    let known = known_structures(reference, predictions.values());
    let compared: Vec<(String, PathBuf, Result<Compared>)> = predictions
        .into_par_iter()
        .map(|(name, path)| {
            let case = reference.id_of(&name).unwrap_or(name);
            let compared = guarded(|| compare(&case, &path, reference, known.as_deref()));
            task.advance(1);
            (case, path, compared)
        })
        .collect();
    drop(task);
    collected(compared, known, reference, observer)
}

/// A case before all structures are known: overlaps by label value.
struct Compared {
    overlaps: BTreeMap<u16, Overlap>,
    voxels: u64,
    scores: CaseScores,
}

fn compare(
    case: &str,
    path: &Path,
    reference: &Reference,
    known: Option<&[Structure]>,
) -> Result<Compared> {
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
    let values = match known {
        Some(structures) => structures.iter().map(|s| s.value).collect(),
        None => occurring(&prediction, &reference),
    };
    let mut found = overlaps(&prediction, &reference, &values)?;
    for overlap in &mut found {
        overlap.true_negative -= ignored;
    }
    let sidecar = read_sidecar(path);
    let roi = sidecar.as_ref().and_then(|sidecar| sidecar.cascade.roi);
    Ok(Compared {
        overlaps: values.into_iter().zip(found).collect(),
        voxels: reference.data.len() as u64 - ignored,
        scores: CaseScores {
            case: case.to_owned(),
            overlaps: Vec::new(),
            voxel_ml: volume_ml(1, &reference.grid),
            roi_recall: roi.and_then(|roi| recall_inside(&reference, &roi)),
            roi_share: roi.map(|roi| roi.voxels() as f64 / reference.data.len() as f64),
            model: sidecar.map(|sidecar| ModelUsed {
                model: sidecar.model,
                sha256: sidecar.model_sha256,
            }),
        },
    })
}

/// Background in both where the reference does not know what is there; how many voxels these are.
pub(super) fn forget_ignored(
    prediction: &mut LabelMap,
    reference: &mut LabelMap,
    ignore: Option<u16>,
) -> u64 {
    let Some(ignore) = ignore else { return 0 };
    let mut ignored = 0;
    ndarray::Zip::from(&mut prediction.data)
        .and(&mut reference.data)
        .for_each(|prediction, reference| {
            if *reference == ignore {
                (*prediction, *reference) = (0, 0);
                ignored += 1;
            }
        });
    ignored
}

fn collected(
    compared: Vec<(String, PathBuf, Result<Compared>)>,
    known: Option<Vec<Structure>>,
    reference: &Reference,
    observer: &dyn Observer,
) -> Result<Evaluation> {
    let (mut whole, mut failures, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    for (case, input, result) in compared {
        seen.push(case);
        match result {
            Ok(compared) => whole.push(compared),
            Err(error) => {
                observer.warn(&format!("failed: {error}"));
                failures.push(Failure {
                    input,
                    reason: error.to_string(),
                });
            }
        }
    }
    let structures = known.unwrap_or_else(|| {
        let values: std::collections::BTreeSet<u16> = whole
            .iter()
            .flat_map(|case| case.overlaps.keys().copied())
            .collect();
        values
            .into_iter()
            .map(|value| Structure {
                value,
                name: format!("structure_{value}"),
            })
            .collect()
    });
    let cases = whole
        .into_iter()
        .map(|case| {
            let absent = Overlap {
                true_positive: 0,
                false_positive: 0,
                false_negative: 0,
                true_negative: case.voxels,
            };
            let overlaps = structures
                .iter()
                .map(|s| case.overlaps.get(&s.value).copied().unwrap_or(absent))
                .collect();
            CaseScores {
                overlaps,
                ..case.scores
            }
        })
        .collect();
    let missing: Vec<String> = reference
        .cases()
        .into_iter()
        .filter(|case| !seen.contains(case))
        .collect();
    if !missing.is_empty() {
        observer.warn(&format!(
            "{} references have no prediction and are left out: {}",
            missing.len(),
            missing.join(", ")
        ));
    }
    Ok(Evaluation {
        structures,
        cases,
        failures,
        missing,
    })
}

/// The structures that are to be compared, by name: the dataset's, or those of the predictions' sidecars.
fn known_structures<'a>(
    reference: &Reference,
    mut predictions: impl Iterator<Item = &'a PathBuf>,
) -> Option<Vec<Structure>> {
    if let Reference::Dataset(dataset) = reference {
        return Some(dataset.structures.clone());
    }
    if let Reference::Union(_) = reference {
        return Some(vec![Structure {
            value: 1,
            name: UNION.to_owned(),
        }]);
    }
    let sidecar = predictions.find_map(|path| read_sidecar(path))?;
    let mut structures: Vec<Structure> = sidecar
        .structures
        .into_iter()
        .map(|(name, value)| Structure { value, name })
        .collect();
    structures.sort_by_key(|structure| structure.value);
    Some(structures)
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

impl Evaluation {
    /// Summary of one metric of one structure (by position) over the cases.
    pub fn summary_of(&self, structure: usize, metric: &str) -> Option<Summary> {
        let (_, score) = METRICS.iter().find(|(name, _)| *name == metric)?;
        Some(Summary::of(
            self.cases
                .iter()
                .map(|case| score(&case.overlaps[structure])),
        ))
    }

    /// Mean over the structures of their means over the cases.
    pub fn mean(&self, metric: &str) -> Option<f64> {
        let means = (0..self.structures.len()).map(|index| self.summary_of(index, metric)?.mean);
        Summary::of(means).mean
    }

    /// `summary.json`: means over structures, each structure, regions, and what could not be compared.
    pub fn to_json(&self) -> Value {
        let mean: serde_json::Map<String, Value> = METRICS
            .iter()
            .map(|(name, _)| ((*name).to_owned(), json!(self.mean(name))))
            .collect();
        let per_structure: serde_json::Map<String, Value> = self
            .structures
            .iter()
            .enumerate()
            .map(|(index, structure)| (structure.name.clone(), self.structure_json(index)))
            .collect();
        let mean_of =
            |score: fn(&CaseScores) -> Option<f64>| Summary::of(self.cases.iter().map(score)).mean;
        json!({
            "mean": mean,
            "per_structure": per_structure,
            "cases": self.cases.len(),
            "roi_recall": mean_of(|case| case.roi_recall),
            "roi_share": mean_of(|case| case.roi_share),
            "failed": self.failures,
            "missing_predictions": self.missing,
        })
    }

    fn structure_json(&self, index: usize) -> Value {
        let mut object = serde_json::Map::new();
        object.insert("label".to_owned(), json!(self.structures[index].value));
        for (name, _) in METRICS {
            let Some(summary) = self.summary_of(index, name) else {
                continue;
            };
            object.insert(name.to_owned(), json!(summary.mean));
            if name == "dice" {
                object.insert("dice_sd".to_owned(), json!(summary.sd));
                object.insert("dice_min".to_owned(), json!(summary.min));
                object.insert("defined".to_owned(), json!(summary.defined));
                object.insert("undefined".to_owned(), json!(summary.undefined));
            }
        }
        Value::Object(object)
    }

    /// Writes `metrics.csv` (a row per case and structure; an undefined value is an empty cell) and
    /// `summary.json` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let csv_path = folder.join("metrics.csv");
        let failed = |error: csv::Error| Error::file(&csv_path, format!("cannot write: {error}"));
        let mut table = csv::Writer::from_writer(Vec::new());
        let mut header = vec!["case", "structure", "label"];
        header.extend(METRICS.iter().map(|(name, _)| *name));
        header.extend(["reference_ml", "prediction_ml", "roi_recall"]);
        table.write_record(header).map_err(failed)?;
        let cell = |value: Option<f64>| value.map(|v| format!("{v:.6}")).unwrap_or_default();
        for case in &self.cases {
            for (structure, overlap) in self.structures.iter().zip(&case.overlaps) {
                let mut row = vec![
                    case.case.clone(),
                    structure.name.clone(),
                    structure.value.to_string(),
                ];
                row.extend(METRICS.iter().map(|(_, score)| cell(score(overlap))));
                row.push(format!(
                    "{:.4}",
                    overlap.reference_voxels() as f64 * case.voxel_ml
                ));
                row.push(format!(
                    "{:.4}",
                    overlap.predicted_voxels() as f64 * case.voxel_ml
                ));
                row.push(cell(case.roi_recall));
                table.write_record(row).map_err(failed)?;
            }
        }
        let bytes = table
            .into_inner()
            .map_err(|error| Error::file(&csv_path, format!("cannot write: {}", error.error())))?;
        write_bytes_atomically(&csv_path, &bytes)?;
        let text = format!("{:#}\n", self.to_json());
        write_bytes_atomically(&folder.join("summary.json"), text.as_bytes())
    }
}
