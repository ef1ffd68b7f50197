//! Hyperparameter search by successive halving (Jamieson and Talwalkar,
//! "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016).
//!
//! All trials are trained for a few epochs. One in `eta` of them, those with the best validation Dice, is promoted and
//! resumed to `eta` times as many epochs, and so on until the last rung has all epochs of the recipe. Learning-rate
//! schedules use the recipe's epochs, so a trial that reaches the end equals what `fit` would have trained.
//!
//! A sweep's folder holds `sweep.toml` and a run folder per trial in `trials/`. All decisions follow from these files,
//! so a resumed sweep decides the same.

mod job;
pub mod table;
mod tracking;

pub use job::FILE;
pub use job::{SweepJob, SweepSettings};

use std::sync::Arc;

use crate::fit::{CheckedData, FitJob, StageOneCache, TrialRun, fit, run_data};
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::cancel::catch_panic;
use ctseg_base::progress::{Observer, Silent};
use ctseg_base::text::file::read_text;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::laterality::without_unpaired_flips;
use ctseg_core::run::data;
use ctseg_core::run::data::RunData;
use ctseg_core::run::state_file;
use ctseg_core::run::state_file::StateWriter;
use ctseg_core::run::tracker::Outcome;

use job::TrialConfig;
use table::{TrialRow, TrialState, best_dice, ranked, write_tables};

/// File in a trial's folder with the reason why it failed.
pub(super) const FAILURE: &str = "failure.txt";

/// Runs or resumes a sweep. Returns its table, the best trial first.
///
/// # Errors
/// [`Error::Interrupted`] when stopped; the dataset has changed since the sweep started; every trial failed.
pub fn sweep(job: &SweepJob, observer: &dyn Observer) -> Result<Vec<TrialRow>> {
    let data = sweep_data(job, observer)?;
    let state = job.folder.join(state_file::FILE);
    let state = StateWriter::start(&state, "sweep", None, observer)?;
    let observer: &dyn Observer = &state;
    let rows = tracking::run_tracked(job, observer, |name| run_rungs(job, &data, name, observer));
    state.finish(&Outcome::of(&rows));
    rows.map_err(|error| match error {
        Error::Interrupted(_) => Error::Interrupted(format!(
            "resume with 'ctseg sweep --resume {}'",
            job.folder.display()
        )),
        other => other,
    })
}

/// The data and folds shared by all trials: those the sweep was started with, at the location in its current settings.
fn sweep_data(job: &SweepJob, observer: &dyn Observer) -> Result<RunData> {
    let settings = &job.settings;
    let before = SweepSettings::read(&job.folder)?;
    let is_started = job.folder.join("trials").exists() || job.folder.join(data::CONTENT).exists();
    let checked = CheckedData {
        dataset: &job.dataset,
        content: &job.content,
        path: &settings.dataset,
    };
    let existing = is_started.then_some(job.folder.as_path());
    let (folds, seed) = (settings.recipe.folds, settings.seed);
    let found = run_data(&checked, folds, seed, existing, observer)?;
    if RunData::read(&job.folder)?.is_none() {
        found.write(&job.folder)?;
    }
    if before != *settings {
        settings.write(&job.folder)?;
    }
    Ok(found)
}

fn run_rungs(
    job: &SweepJob,
    data: &RunData,
    name: &str,
    observer: &dyn Observer,
) -> Result<Vec<TrialRow>> {
    let configs = job.settings.trial_configs()?;
    let rung_epochs = job.settings.rung_epochs();
    let stage_one = StageOneCache::default();
    observer.info(&format!(
        "sweep of {} in {}: rungs of {rung_epochs:?} epochs, one in {} is promoted",
        counted(configs.len(), "trial"),
        job.folder.display(),
        job.settings.eta
    ));
    let mut states: Vec<TrialState> = configs
        .iter()
        .map(|config| TrialState::new(&config.name, &config.set, config.recipe.clone()))
        .collect();
    let mut active: Vec<usize> = (0..configs.len()).collect();
    for (rung, epochs) in rung_epochs.iter().enumerate() {
        for index in &active {
            let config = &configs[*index];
            let trial = TrialRun {
                folder: &job.folder.join("trials").join(&config.name),
                parent: name,
                epochs: *epochs,
                data,
                stage_one: &stage_one,
            };
            states[*index].rung = rung + 1;
            states[*index].failure = train_trial(job, config, trial, observer)?;
            let rows = ranked(&job.folder, &states)?;
            write_tables(&job.folder, &rows)?;
            (job.on_update)(&rows)?;
        }
        active.retain(|index| states[*index].failure.is_none());
        active = best_first(job, &configs, active, *epochs)?;
        if rung + 1 < rung_epochs.len() {
            active.truncate(promoted_count(active.len(), job.settings.eta));
        }
        for index in &active {
            states[*index].promoted = true;
        }
        for (index, state) in states.iter_mut().enumerate() {
            state.promoted &= active.contains(&index);
        }
    }
    let rows = ranked(&job.folder, &states)?;
    write_tables(&job.folder, &rows)?;
    (job.on_update)(&rows)?;
    if rows.iter().all(|row| row.failure.is_some()) {
        return Err(Error::invalid(format!(
            "every trial failed; the reasons are in {}",
            job.folder.join("table.txt").display()
        )));
    }
    Ok(rows)
}

/// The `active` trials by best validation Dice within `epochs` epochs, the best first; ties in the order of the trials.
fn best_first(
    job: &SweepJob,
    configs: &[TrialConfig],
    active: Vec<usize>,
    epochs: usize,
) -> Result<Vec<usize>> {
    let mut scores = Vec::new();
    for index in active {
        let folder = job.folder.join("trials").join(&configs[index].name);
        // An undefined Dice sorts last.
        let dice = best_dice(&folder, epochs)?.unwrap_or(f64::NEG_INFINITY);
        scores.push((dice, index));
    }
    scores.sort_by(|(a, first), (b, second)| b.total_cmp(a).then(first.cmp(second)));
    Ok(scores.into_iter().map(|(_, index)| index).collect())
}

/// One in `eta`, at least one.
fn promoted_count(count: usize, eta: usize) -> usize {
    count.div_ceil(eta).max(1)
}

/// Trains one trial up to its rung. Returns the reason if it failed, now or in an earlier session.
fn train_trial(
    job: &SweepJob,
    config: &TrialConfig,
    trial: TrialRun,
    observer: &dyn Observer,
) -> Result<Option<String>> {
    let failure = trial.folder.join(FAILURE);
    if let Ok(known) = read_text(&failure) {
        return Ok(Some(known.trim().to_owned()));
    }
    observer.info(&format!(
        "trial {} to epoch {}: {}",
        config.name,
        trial.epochs,
        config.set.join(" ")
    ));
    let settings = &job.settings;
    let structures = &job.dataset.structures;
    let fit_job = FitJob {
        recipe: without_unpaired_flips(config.recipe.clone(), structures, &Silent),
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
        draw_comparison: None, // trials have no out-of-fold predictions
        trial: Some(trial),
        preprocessed_cache: job.preprocessed_cache,
        group: Arc::default(),
    };
    match catch_panic(|| fit(&fit_job, observer)) {
        Ok(_) => Ok(None),
        Err(interrupted @ Error::Interrupted(_)) => Err(interrupted),
        Err(error) => {
            let line = error.to_string();
            observer.warn(&format!("trial {} failed: {line}", config.name));
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
        let found = settings(&vary, 1, 9).trial_configs().unwrap();
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
            let error = settings(&[wrong], 1, 9).trial_configs().err().unwrap();
            assert!(error.to_string().contains("--vary"), "{wrong}: {error}");
        }
        assert!(settings(&vary, 0, 9).trial_configs().is_err());
    }

    #[test]
    fn rungs_share_the_epochs() {
        assert_eq!(settings(&[], 3, 27).rung_epochs(), [3, 9, 27]);
        assert_eq!(settings(&[], 1, 27).rung_epochs(), [27]);
        assert_eq!(settings(&[], 4, 5).rung_epochs(), [1, 1, 2, 5]);
        assert_eq!(
            [9, 4, 3, 1].map(|count| promoted_count(count, 3)),
            [3, 2, 1, 1]
        );
    }
}
