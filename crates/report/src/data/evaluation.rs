//! The content of a report from an evaluation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::case::{CaseFiles, ComparedFiles};
use super::table::{self, MetricTable};
use ctseg_base::failures::Failure;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::Reading;
use ctseg_core::dataset::reference::Reference;

/// An evaluation's metrics and image files.
pub struct EvaluationFacts {
    pub folder: PathBuf,
    pub table: MetricTable,
    /// Cases that could not be segmented or compared, with the reason.
    pub failed: Vec<(String, String)>,
    /// References without a prediction.
    pub missing: Vec<String>,
    /// Mean fraction of the reference inside stage 1's region of interest.
    pub roi_recall: Option<f64>,
    /// Mean fraction of the volume that this region covers.
    pub roi_share: Option<f64>,
    /// When `metrics.csv` was written.
    pub written: Option<jiff::Timestamp>,
    pub files: CaseFiles,
}

/// Files and folders given by the user besides those recorded in the evaluation.
#[derive(Default)]
pub struct EvaluationSources {
    pub reference: Option<Reference>,
    pub predictions: Option<PathBuf>,
    pub images: Option<PathBuf>,
    /// Options for reading files.
    pub reading: Reading,
}

impl EvaluationFacts {
    /// Reads `metrics.csv` and `summary.json` in `folder`, and lists the label maps; no image is read.
    ///
    /// # Errors
    /// A missing or damaged table or `summary.json`, which lists the failures.
    pub fn read(folder: &Path, sources: EvaluationSources) -> Result<Self> {
        let file = folder.join(table::FILE);
        let table = MetricTable::read(&file)?;
        let written = std::fs::metadata(&file).and_then(|data| data.modified());
        let summary = read_summary(&folder.join("summary.json"))?;
        let compared: Vec<ComparedFiles> =
            serde_json::from_value(summary.compared).unwrap_or_default();
        let predictions = sources.predictions.as_deref().unwrap_or(folder);
        let files = CaseFiles {
            compared: compared
                .into_iter()
                .map(|compared| (compared.case.clone(), compared))
                .collect(),
            predictions: CaseFiles::files_in(predictions),
            reference: sources.reference,
            images: sources
                .images
                .as_deref()
                .map_or_else(BTreeMap::new, CaseFiles::files_in),
            folder: folder.to_path_buf(),
            reading: sources.reading,
        };
        let mut failed = failures(&summary.failed);
        failed.extend(failed_predictions(&files, predictions));
        Ok(Self {
            folder: folder.to_path_buf(),
            table,
            failed,
            missing: strings(&summary.missing_predictions),
            roi_recall: summary.roi_recall.as_f64(),
            roi_share: summary.roi_share.as_f64(),
            written: written.ok().and_then(|time| time.try_into().ok()),
            files,
        })
    }
}

/// The parts of `summary.json` that a report needs; values of another type are ignored.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Summary {
    compared: Value,
    failed: Value,
    missing_predictions: Value,
    roi_recall: Value,
    roi_share: Value,
}

fn read_summary(path: &Path) -> Result<Summary> {
    let text = read_text(path).map_err(Error::io(path, "read"))?;
    serde_json::from_str(&text).map_err(|error| {
        Error::file(
            path,
            format!("is not valid JSON ({error}); run 'ctseg evaluate' again"),
        )
    })
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().into_iter().flatten();
    list.map(|item| {
        item.as_str()
            .map_or_else(|| item.to_string(), str::to_owned)
    })
    .collect()
}

fn failures(list: &Value) -> Vec<(String, String)> {
    let list = list.as_array().into_iter().flatten();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    list.map(|item| (text(item, "input"), text(item, "reason")))
        .collect()
}

/// Cases that `ctseg predict` could not segment, from `failures.jsonl` beside its label maps.
fn failed_predictions(files: &CaseFiles, predictions: &Path) -> Vec<(String, String)> {
    let mut folders: Vec<PathBuf> = files
        .compared
        .values()
        .filter_map(|compared| Some(compared.prediction.as_ref()?.parent()?.to_path_buf()))
        .chain([predictions.to_path_buf()])
        .collect();
    folders.sort();
    folders.dedup();
    let mut failed = Vec::new();
    for folder in folders {
        let text = read_text(&folder.join("failures.jsonl")).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        failed.extend(lines.map(|failure: Failure| {
            let input = failure.input.display().to_string();
            (input, format!("not segmented: {}", failure.reason))
        }));
    }
    failed.sort();
    failed.dedup();
    failed
}
