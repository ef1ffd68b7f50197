//! The epochs of a run: `metrics.jsonl`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checkpoint::StopReason;
use super::tracker::EpochRecord;
use super::validation::Validation;
use ctseg_base::{Error, Result, regular_file};

/// The file's name in a run folder.
pub const FILE: &str = "metrics.jsonl";

/// One line: one epoch of one network. Numbers that are not finite are null.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EpochLine {
    /// Such as `fold 0`.
    pub network: String,
    /// Counted from 1.
    pub epoch: usize,
    /// Training time so far.
    pub seconds: f64,
    /// Mean training loss over the steps.
    pub loss: Option<f64>,
    pub learning_rate: f64,
    pub validation_dice: Option<f64>,
    pub validation_dice_per_structure: Vec<Option<f64>>,
    pub validation_iou: Option<f64>,
    pub validation_loss: Option<f64>,
    /// Missing in files of early versions, as are precision and recall.
    #[serde(default)]
    pub validation_iou_per_structure: Vec<Option<f64>>,
    #[serde(default)]
    pub validation_precision: Option<f64>,
    #[serde(default)]
    pub validation_precision_per_structure: Vec<Option<f64>>,
    #[serde(default)]
    pub validation_recall: Option<f64>,
    #[serde(default)]
    pub validation_recall_per_structure: Vec<Option<f64>>,
    #[serde(default)]
    pub validation_accuracy: Option<f64>,
    #[serde(default)]
    pub validation_accuracy_per_structure: Vec<Option<f64>>,
    /// Measured like validation on some of the training cases; only in some epochs.
    #[serde(default)]
    pub training_dice: Option<f64>,
    #[serde(default)]
    pub training_loss: Option<f64>,
    #[serde(default)]
    pub training_dice_per_structure: Vec<Option<f64>>,
    #[serde(default)]
    pub training_iou: Option<f64>,
    #[serde(default)]
    pub training_iou_per_structure: Vec<Option<f64>>,
    #[serde(default)]
    pub training_precision: Option<f64>,
    #[serde(default)]
    pub training_precision_per_structure: Vec<Option<f64>>,
    #[serde(default)]
    pub training_recall: Option<f64>,
    #[serde(default)]
    pub training_recall_per_structure: Vec<Option<f64>>,
    #[serde(default)]
    pub training_accuracy: Option<f64>,
    #[serde(default)]
    pub training_accuracy_per_structure: Vec<Option<f64>>,
    /// Whether the time limit interrupted the epoch.
    #[serde(default, rename = "broken_off")]
    pub interrupted: bool,
    pub ended: Option<StopReason>,
}

/// A run's epochs by network, in order.
pub type History = BTreeMap<String, Vec<EpochLine>>;

impl EpochLine {
    pub(super) fn of(record: &EpochRecord) -> Self {
        let finite = |value: f64| value.is_finite().then_some(value);
        let (validation, training) = (record.validation, record.training);
        let per_structure = |of: fn(&Validation) -> &Vec<Option<f64>>| {
            training.map_or_else(Vec::new, |training| of(training).clone())
        };
        Self {
            network: record.network.to_owned(),
            epoch: record.progress.epoch,
            seconds: record.progress.seconds,
            loss: finite(record.mean_loss),
            learning_rate: record.learning_rate,
            validation_dice: validation.dice,
            validation_dice_per_structure: validation.dice_per_map.clone(),
            validation_iou: validation.iou,
            validation_loss: validation.loss.and_then(finite),
            validation_iou_per_structure: validation.iou_per_map.clone(),
            validation_precision: validation.precision,
            validation_precision_per_structure: validation.precision_per_map.clone(),
            validation_recall: validation.recall,
            validation_recall_per_structure: validation.recall_per_map.clone(),
            validation_accuracy: validation.accuracy,
            validation_accuracy_per_structure: validation.accuracy_per_map.clone(),
            training_dice: training.and_then(|training| training.dice),
            training_loss: training.and_then(|t| t.loss).and_then(finite),
            training_dice_per_structure: per_structure(|t| &t.dice_per_map),
            training_iou: training.and_then(|training| training.iou),
            training_iou_per_structure: per_structure(|t| &t.iou_per_map),
            training_precision: training.and_then(|training| training.precision),
            training_precision_per_structure: per_structure(|t| &t.precision_per_map),
            training_recall: training.and_then(|training| training.recall),
            training_recall_per_structure: per_structure(|t| &t.recall_per_map),
            training_accuracy: training.and_then(|training| training.accuracy),
            training_accuracy_per_structure: per_structure(|t| &t.accuracy_per_map),
            interrupted: record.interrupted,
            ended: record.progress.ended,
        }
    }
}

/// The history of the run folder `run`; empty without a file. Of an epoch that was repeated after a kill the last line
/// counts; damaged lines are skipped.
///
/// # Errors
/// The file exists but cannot be read.
pub fn read(run: &Path) -> Result<History> {
    let path = run.join(FILE);
    if !path.exists() {
        return Ok(History::new());
    }
    let bytes = regular_file::read(&path).map_err(Error::io(&path, "read"))?;
    let mut history = History::new();
    let text = String::from_utf8_lossy(&bytes);
    for line in text.trim_start_matches('\u{feff}').lines() {
        let Ok(line) = serde_json::from_str::<EpochLine>(line) else {
            continue;
        };
        let epochs = history.entry(line.network.clone()).or_default();
        epochs.retain(|before| before.epoch < line.epoch);
        epochs.push(line);
    }
    Ok(history)
}

/// The last of the epochs with the best validation Dice, and that Dice; none if it is undefined in all epochs.
pub fn best(lines: &[EpochLine]) -> Option<(usize, f64)> {
    lines
        .iter()
        .rev()
        .filter_map(|line| Some((line.epoch, line.validation_dice?)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

/// A sample line, for tests.
#[doc(hidden)]
pub fn line(network: &str, epoch: usize, validation_dice: f64) -> EpochLine {
    EpochLine {
        network: network.to_owned(),
        epoch,
        seconds: epoch as f64,
        loss: Some(1.0 / epoch as f64),
        learning_rate: 1e-3,
        validation_dice: Some(validation_dice),
        validation_dice_per_structure: vec![Some(validation_dice)],
        validation_iou: Some(validation_dice / 2.0),
        validation_loss: Some(1.0 / epoch as f64),
        ..EpochLine::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_repeated_epoch_counts() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
        let lines = [
            line("fold 0", 1, 0.1),
            line("fold 0", 2, 0.2),
            line("fold 0", 3, 0.3),
            line("fold 1", 1, 0.5),
            // Resumed from the checkpoint after the first epoch.
            line("fold 0", 2, 0.25),
        ];
        let mut text = String::new();
        for line in &lines {
            text += &format!("{}\n", serde_json::to_string(line).unwrap());
        }
        text += "{\"network\": \"fold 0\", \"epo";
        std::fs::write(folder.path().join(FILE), text).unwrap();
        let history = read(folder.path()).unwrap();
        assert_eq!(history["fold 0"], [lines[0].clone(), lines[4].clone()]);
        assert_eq!(history["fold 1"], [lines[3].clone()]);
    }

    #[test]
    fn lines_of_older_runs_are_read() {
        let text = r#"{"network":"fold 0","epoch":1,"seconds":2.5,"loss":null,"learning_rate":0.001,"validation_dice":0.5,"validation_dice_per_structure":[0.5,null],"validation_iou":0.4,"validation_loss":null,"ended":"time_is_up"}"#;
        let line: EpochLine = serde_json::from_str(text).unwrap();
        assert_eq!((line.loss, line.training_dice), (None, None));
        assert_eq!((line.validation_precision, line.training_iou), (None, None));
        assert!(line.validation_recall_per_structure.is_empty());
        assert_eq!(line.ended, Some(StopReason::TimeLimit));
    }
}
