//! The table of a sweep: its trials in order of rank, with their results.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::diagnosis::{Verdict, diagnose};
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::mean::mean;
use ctseg_base::text::csv_cell::to_cell;
use ctseg_base::{Error, Result};
use ctseg_core::recipe::Recipe;
use ctseg_core::run::history;
use ctseg_core::run::history::{EpochLine, History};

/// One trial of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialRow {
    /// 1 is the best.
    pub rank: usize,
    /// The name of its folder in `trials/`.
    pub trial: String,
    /// `key=value` for every varied key.
    pub settings: Vec<String>,
    /// Number of rungs it was trained for.
    pub rungs: usize,
    /// Number of finished epochs, of the fold with the most.
    pub epochs: usize,
    /// Best validation Dice, mean over folds.
    pub best_dice: Option<f64>,
    /// Training loss of the last epoch, mean over folds.
    pub loss: Option<f64>,
    /// Training time of all folds.
    pub seconds: f64,
    /// The verdict on the first fold.
    pub verdict: Option<Verdict>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    pub run: PathBuf,
}

/// The state of a trial during the sweep.
pub(super) struct TrialState {
    name: String,
    set: Vec<String>,
    recipe: Recipe,
    pub rung: usize,
    /// Whether it was among the best of its last rung.
    pub promoted: bool,
    pub failure: Option<String>,
}

impl TrialState {
    pub fn new(name: &str, set: &[String], recipe: Recipe) -> Self {
        Self {
            name: name.to_owned(),
            set: set.to_vec(),
            recipe,
            rung: 0,
            promoted: false,
            failure: None,
        }
    }
}

/// Best validation Dice of the run in `folder` within its first `epochs` epochs, mean over folds; later epochs do not
/// count for an earlier rung.
pub(super) fn best_dice(folder: &Path, epochs: usize) -> Result<Option<f64>> {
    Ok(dice_within(&history::read(folder)?, epochs))
}

fn dice_within(history: &History, epochs: usize) -> Option<f64> {
    let best = history.values().filter_map(|lines| {
        let within = lines.partition_point(|line| line.epoch <= epochs);
        history::best(&lines[..within]).map(|(_, dice)| dice)
    });
    mean(best)
}

/// All trials, the best first: by rungs reached, then by Dice; failed trials last.
pub(super) fn ranked(sweep: &Path, states: &[TrialState]) -> Result<Vec<TrialRow>> {
    let mut rows = states
        .iter()
        .map(|state| Ok((state, row(sweep, state)?)))
        .collect::<Result<Vec<_>>>()?;
    rows.sort_by(|(first, a), (second, b)| {
        let dice = |row: &TrialRow| row.best_dice.unwrap_or(-1.0);
        a.failure
            .is_some()
            .cmp(&b.failure.is_some())
            .then(second.rung.cmp(&first.rung))
            .then(second.promoted.cmp(&first.promoted))
            .then(dice(b).total_cmp(&dice(a)))
            .then(a.trial.cmp(&b.trial))
    });
    let numbered = rows
        .into_iter()
        .enumerate()
        .map(|(index, (_, row))| TrialRow {
            rank: index + 1,
            ..row
        });
    Ok(numbered.collect())
}

fn row(sweep: &Path, state: &TrialState) -> Result<TrialRow> {
    let run = sweep.join("trials").join(&state.name);
    let history = history::read(&run)?;
    let last = || history.values().filter_map(|lines| lines.last());
    let verdict = |(network, lines): (&String, &Vec<EpochLine>)| {
        diagnose(network, lines, &state.recipe).verdict
    };
    Ok(TrialRow {
        rank: 0,
        trial: state.name.clone(),
        settings: state.set.clone(),
        rungs: state.rung,
        epochs: last().map(|line| line.epoch).max().unwrap_or(0),
        best_dice: dice_within(&history, usize::MAX),
        loss: mean(last().filter_map(|line| line.loss)),
        seconds: last().map(|line| line.seconds).sum(),
        verdict: history.iter().next().map(verdict),
        failure: state.failure.clone(),
        run,
    })
}

/// Writes `sweep.csv` and `sweep.json` into the sweep's folder.
pub(super) fn write_tables(sweep: &Path, rows: &[TrialRow]) -> Result<()> {
    let path = sweep.join("sweep.json");
    let text = serde_json::to_string_pretty(rows)
        .map_err(|error| Error::file(&path, format!("cannot write: {error}")))?;
    write_bytes_atomically(&path, format!("{text}\n").as_bytes())?;
    let path = sweep.join("sweep.csv");
    let failed = |error: csv::Error| Error::file(&path, format!("cannot write: {error}"));
    let mut table = csv::Writer::from_writer(Vec::new());
    let header = "rank,trial,settings,rungs,epochs,best_dice,loss,seconds,verdict,failure";
    table.write_record(header.split(',')).map_err(failed)?;
    for row in rows {
        let number = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
        table
            .write_record([
                row.rank.to_string(),
                to_cell(&row.trial),
                to_cell(&row.settings.join(" ")),
                row.rungs.to_string(),
                row.epochs.to_string(),
                number(row.best_dice),
                number(row.loss),
                format!("{:.1}", row.seconds),
                row.verdict
                    .map_or_else(String::new, |verdict| verdict.to_string()),
                to_cell(row.failure.as_deref().unwrap_or_default()),
            ])
            .map_err(failed)?;
    }
    let bytes = table
        .into_inner()
        .map_err(|error| Error::file(&path, format!("cannot write: {error}")))?;
    write_bytes_atomically(&path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_that_got_further_rank_before_those_with_better_early_scores() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe::named("1", &[]).unwrap();
        let trial = |name: &str, dice: &[f64], rung: usize, failure: Option<&str>| {
            let run = folder.path().join("trials").join(name);
            std::fs::create_dir_all(&run).unwrap();
            let lines: String = (1..)
                .zip(dice)
                .map(|(epoch, dice)| {
                    let line = history::line("fold 0", epoch, *dice);
                    serde_json::to_string(&line).unwrap() + "\n"
                })
                .collect();
            std::fs::write(run.join(history::FILE), lines).unwrap();
            TrialState {
                rung,
                failure: failure.map(str::to_owned),
                ..TrialState::new(name, &[format!("name={name}")], recipe.clone())
            }
        };
        let states = [
            trial("000", &[0.5, 0.6], 1, None),
            trial("001", &[0.1], 1, Some("=not finite")),
            trial("002", &[0.4, 0.55, 0.58], 2, None),
            trial("003", &[0.7], 1, None),
            trial("004", &[], 1, Some("no memory")),
        ];
        let rows = ranked(folder.path(), &states).unwrap();
        let order: Vec<&str> = rows.iter().map(|row| row.trial.as_str()).collect();
        assert_eq!(order, ["002", "003", "000", "001", "004"]);
        assert_eq!((rows[0].rank, rows[0].epochs), (1, 3));
        assert_eq!(rows[0].best_dice, Some(0.58));
        assert_eq!(rows[4].best_dice, None);
        let run = |name: &str| folder.path().join("trials").join(name);
        assert_eq!(best_dice(&run("002"), 1).unwrap(), Some(0.4));
        write_tables(folder.path(), &rows).unwrap();
        let text = std::fs::read_to_string(folder.path().join("sweep.csv")).unwrap();
        assert_eq!(text.lines().count(), 6);
        assert!(
            text.contains("001") && text.contains(",'=not finite\n"),
            "{text}"
        );
        let bytes = std::fs::read(folder.path().join("sweep.json")).unwrap();
        assert_eq!(
            serde_json::from_slice::<Vec<TrialRow>>(&bytes).unwrap(),
            rows
        );
    }
}
