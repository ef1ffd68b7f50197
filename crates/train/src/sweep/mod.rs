//! One stage trained with many settings, and the best of them: successive halving (Jamieson and Talwalkar,
//! "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016).
//!
//! All trials are trained for a few epochs; one in `eta` of them, those with the best validation Dice, goes on from
//! where it stands to `eta` times as many epochs, and so on until the last rung has all epochs of the recipe.
//! Schedules follow the recipe's epochs, so that a trial which gets to the end is what `fit` would have trained.
//!
//! A sweep's folder holds `sweep.toml` and a run folder for each trial in `trials/`. What a sweep has decided
//! follows from those alone: a sweep that is gone on with decides the same.

mod job;
pub mod table;
mod tracking;

pub use job::FILE;
pub use job::{SweepJob, SweepSettings};

use std::sync::Arc;

use crate::fit::{CheckedData, FitJob, StageOneMemory, TrialRun, fit, run_data};
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::cancel::guarded;
use ctseg_base::progress::{Observer, Silent};
use ctseg_base::text::file::read_text;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::laterality::mirrored_where_possible;
use ctseg_core::run::data;
use ctseg_core::run::data::RunData;
use ctseg_core::run::state_file;
use ctseg_core::run::state_file::StateKeeper;
use ctseg_core::run::tracker::Outcome;

use job::Candidate;
use table::{Standing, TrialRow, best_dice, ranked, write_tables};

/// In a trial's folder, why it failed.
pub(super) const FAILURE: &str = "failure.txt";

/// Does a sweep, or what is left of it; its table, the best trial first.
///
/// # Errors
/// [`Error::Interrupted`] when stopped from outside; other data than the sweep began with; no trial that did not fail.
pub fn sweep(job: &SweepJob, observer: &dyn Observer) -> Result<Vec<TrialRow>> {
    let data = data_of(job, observer)?;
    let state = job.folder.join(state_file::FILE);
    let state = StateKeeper::begin(&state, "sweep", None, observer)?;
    let observer: &dyn Observer = &state;
    let rows = tracking::told(job, observer, |name| {
        trained_in_rungs(job, &data, name, observer)
    });
    state.ended(&Outcome::of(&rows));
    rows.map_err(|error| match error {
        Error::Interrupted(_) => Error::Interrupted(format!(
            "'ctseg sweep --resume {}' goes on",
            job.folder.display()
        )),
        other => other,
    })
}

/// The data and folds that all trials share: those that the sweep began with, which lie where its settings say now.
fn data_of(job: &SweepJob, observer: &dyn Observer) -> Result<RunData> {
    let settings = &job.settings;
    let before = SweepSettings::read(&job.folder)?;
    let is_begun = job.folder.join("trials").exists() || job.folder.join(data::CONTENT).exists();
    let checked = CheckedData {
        dataset: &job.dataset,
        content: &job.content,
        place: &settings.dataset,
    };
    let folds = (settings.recipe.folds, settings.seed);
    let begun = is_begun.then_some(job.folder.as_path());
    let found = run_data(&checked, folds, begun, observer)?;
    if RunData::read(&job.folder)?.is_none() {
        found.write(&job.folder)?;
    }
    if before != *settings {
        settings.write(&job.folder)?;
    }
    Ok(found)
}

fn trained_in_rungs(
    job: &SweepJob,
    data: &RunData,
    name: &str,
    observer: &dyn Observer,
) -> Result<Vec<TrialRow>> {
    let candidates = job.settings.candidates()?;
    let budgets = job.settings.budgets();
    let stage_one = StageOneMemory::default();
    observer.say(&format!(
        "sweep of {} in {}: {budgets:?} epochs, one in {} goes on",
        counted(candidates.len(), "trial"),
        job.folder.display(),
        job.settings.eta
    ));
    let mut standings: Vec<Standing> = candidates
        .iter()
        .map(|candidate| Standing::new(&candidate.name, &candidate.set, candidate.recipe.clone()))
        .collect();
    let mut alive: Vec<usize> = (0..candidates.len()).collect();
    for (rung, epochs) in budgets.iter().enumerate() {
        for index in &alive {
            let candidate = &candidates[*index];
            let trial = TrialRun {
                folder: &job.folder.join("trials").join(&candidate.name),
                parent: name,
                epochs: *epochs,
                data,
                stage_one: &stage_one,
            };
            standings[*index].rung = rung + 1;
            standings[*index].failure = trained(job, candidate, trial, observer)?;
            let rows = ranked(&job.folder, &standings)?;
            write_tables(&job.folder, &rows)?;
            (job.seen)(&rows)?;
        }
        alive.retain(|index| standings[*index].failure.is_none());
        alive = best_first(job, &candidates, alive, *epochs)?;
        if rung + 1 < budgets.len() {
            alive.truncate(candidates_left(alive.len(), job.settings.eta));
        }
        for index in &alive {
            standings[*index].goes_on = true;
        }
        for (index, standing) in standings.iter_mut().enumerate() {
            standing.goes_on &= alive.contains(&index);
        }
    }
    let rows = ranked(&job.folder, &standings)?;
    write_tables(&job.folder, &rows)?;
    (job.seen)(&rows)?;
    if rows.iter().all(|row| row.failure.is_some()) {
        return Err(Error::invalid(format!(
            "every trial failed; their reasons are in {}",
            job.folder.join("table.txt").display()
        )));
    }
    Ok(rows)
}

/// Of `alive` those with the best validation Dice within `epochs` epochs first; of equals the one that was named first.
fn best_first(
    job: &SweepJob,
    candidates: &[Candidate],
    alive: Vec<usize>,
    epochs: usize,
) -> Result<Vec<usize>> {
    let mut scores = Vec::new();
    for index in alive {
        let folder = job.folder.join("trials").join(&candidates[index].name);
        // Undefined is below all that was measured.
        let dice = best_dice(&folder, epochs)?.unwrap_or(f64::NEG_INFINITY);
        scores.push((dice, index));
    }
    scores.sort_by(|(a, first), (b, second)| b.total_cmp(a).then(first.cmp(second)));
    Ok(scores.into_iter().map(|(_, index)| index).collect())
}

/// One in `eta`, at least one.
fn candidates_left(count: usize, eta: usize) -> usize {
    count.div_ceil(eta).max(1)
}

/// Trains one trial up to the rung; why it failed, if it did, also in an earlier session.
fn trained(
    job: &SweepJob,
    candidate: &Candidate,
    trial: TrialRun,
    observer: &dyn Observer,
) -> Result<Option<String>> {
    let failure = trial.folder.join(FAILURE);
    if let Ok(known) = read_text(&failure) {
        return Ok(Some(known.trim().to_owned()));
    }
    observer.say(&format!(
        "trial {} to epoch {}: {}",
        candidate.name,
        trial.epochs,
        candidate.set.join(" ")
    ));
    let settings = &job.settings;
    let structures = &job.dataset.structures;
    let fit_job = FitJob {
        recipe: mirrored_where_possible(candidate.recipe.clone(), structures, &Silent),
        dataset: job.dataset.clone(),
        dataset_path: settings.dataset.clone(),
        data_root: settings.data_root.clone(),
        model: settings.model.clone(),
        runs: job.folder.clone(),
        from: None,
        resume: None,
        compute: job.compute.clone(),
        seed: settings.seed,
        max_time: None,
        loader_threads: None,
        stop: job.stop,
        trackers: job.trackers,
        tags: job.tags.clone(),
        draw_comparison: None, // trials predict no cases on their own grids
        trial: Some(trial),
        case_store: job.case_store,
        team: Arc::default(),
    };
    match guarded(|| fit(&fit_job, observer)) {
        Ok(_) => Ok(None),
        Err(interrupted @ Error::Interrupted(_)) => Err(interrupted),
        Err(error) => {
            let line = error.to_string();
            observer.warn(&format!("trial {} failed: {line}", candidate.name));
            write_bytes_atomically(&failure, format!("{line}\n").as_bytes())?;
            Ok(Some(line))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::job::SweepSettings;
    use super::*;
    use ctseg_core::dataset::Reading;
    use ctseg_core::recipe::Recipe;
    use std::path::PathBuf;

    fn settings(vary: &[&str], rungs: usize, epochs: usize) -> SweepSettings {
        let set = [format!("training.epochs={epochs}")];
        SweepSettings {
            vary: vary.iter().map(|text| (*text).to_owned()).collect(),
            rungs,
            eta: 3,
            dataset: PathBuf::new(),
            data_root: None,
            model: PathBuf::new(),
            seed: 1,
            reading: Reading::default(),
            recipe: Recipe::named("1", &set).unwrap(),
        }
    }

    #[test]
    fn trials_are_all_combinations() {
        let vary = [
            "network.widths=[4, 8],[8,16]",
            "training.loss=bce,dice,'bce_dice'",
        ];
        let found = settings(&vary, 1, 9).candidates().unwrap();
        assert_eq!(found.len(), 6);
        assert_eq!(
            found[1].set,
            ["network.widths=[4, 8]", "training.loss=dice"]
        );
        assert_eq!(found[5].recipe.training.loss.name(), "bce-dice");
        assert_eq!(found[3].recipe.network.multiple(), [1, 2, 2]);
        for wrong in [
            "training.loss",
            "training.loss=",
            "training.loss=bce,,dice",
            "training.loss=bce,nonsense",
            "folds=3,4",
        ] {
            let error = settings(&[wrong], 1, 9).candidates().err().unwrap();
            assert!(error.to_string().contains("--vary"), "{wrong}: {error}");
        }
        assert!(settings(&vary, 0, 9).candidates().is_err());
    }

    #[test]
    fn rungs_share_the_epochs() {
        assert_eq!(settings(&[], 3, 27).budgets(), [3, 9, 27]);
        assert_eq!(settings(&[], 1, 27).budgets(), [27]);
        assert_eq!(settings(&[], 4, 5).budgets(), [1, 1, 2, 5]);
        assert_eq!(
            [9, 4, 3, 1].map(|count| candidates_left(count, 3)),
            [3, 2, 1, 1]
        );
    }
}
