//! `ctseg sweep`: hyperparameter search for one stage.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::fit::{FoldChoice, parse_fold};
use crate::cli::args::data_cache::StorageArgs;
use crate::cli::args::reading::ReadingArgs;
use crate::cli::args::time_limit::LimitArgs;
use crate::cli::args::tracking::MlflowArgs;
use crate::cli::env::nnunet_preprocessed;
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::resume::{DataPaths, Given, TRACKED_ALREADY, moved_data};
use crate::cli::settings::Settings;
use crate::cli::signals::stop_on_signals;
use crate::cli::trackers::{TrackerContext, open_trackers};
use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::progress::Observer;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::table::{score, table};
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::generated;
use ctseg_core::dataset::{Dataset, PredefinedSplits};
use ctseg_core::recipe::Recipe;
use ctseg_core::run::data::RunData;
use ctseg_core::run::tracker::Tracker;
use ctseg_report::curves;
use ctseg_tracking::provenance;
use ctseg_train::fit::{check_dataset, check_stage_one};
use ctseg_train::sweep::table::TrialRow;
use ctseg_train::sweep::{SweepJob, SweepSettings, sweep};

#[derive(Args)]
pub struct SweepArgs {
    /// Recipe to train: 1 (coarse), 2 (refine), the name of a built-in recipe, or a recipe file
    #[arg(long, required_unless_present = "resume", value_name = "1|2|NAME|FILE")]
    stage: Option<String>,
    /// Values to try, such as training.optimiser.learning_rate=1e-2,1e-3; with several --vary, every combination is a
    /// trial
    #[arg(
        long,
        required_unless_present = "resume",
        value_name = "KEY=VALUE,VALUE"
    )]
    vary: Vec<String>,
    /// Override a recipe value in all trials
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Number of epochs of a complete trial
    #[arg(long)]
    epochs: Option<usize>,
    /// Number of successive-halving rungs; 1 trains all trials to the end
    #[arg(long, default_value_t = 3)]
    rungs: usize,
    /// Reduction factor: after each rung, 1 in ETA trials continues, with ETA times the epochs
    #[arg(long, default_value_t = 3)]
    eta: usize,
    /// Dataset folder or descriptor [default: generated phantoms]
    #[arg(long, env = "CTSEG_DATA")]
    data: Option<PathBuf>,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Model folder with the stage 1 that stage 2 builds on [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    model: Option<PathBuf>,
    /// Folder for run folders [default: runs]
    #[arg(long, env = "CTSEG_RUNS")]
    runs: Option<PathBuf>,
    /// Fold to train, or all
    #[arg(long, value_name = "all|K", value_parser = parse_fold, default_value = "0")]
    fold: FoldChoice,
    /// Random seed of weights, folds and sample order; the same for all trials
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Resume the sweep in this folder; the dataset must be unchanged (pass --data if it was moved)
    #[arg(long, value_name = "SWEEP")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    mlflow: MlflowArgs,
}

/// Flags that conflict with `--resume`, each with what the sweep uses instead.
const NOT_WITH_RESUME: [(&str, &str); 12] = [
    ("stage", "the sweep's own recipe"),
    ("set", "the sweep's own recipe"),
    ("epochs", "the sweep's own recipe"),
    ("vary", "the sweep's own trials"),
    ("rungs", "the sweep's own rungs"),
    ("eta", "the sweep's own rungs"),
    ("fold", "the sweep's own folds"),
    ("seed", "the sweep's own seed"),
    ("model", "the sweep's own model"),
    ("runs", "the sweep's own folder"),
    ("grid_tolerance", "the sweep's own grid tolerance"),
    ("rescale_hu", "the sweep's own HU conversion"),
];

pub fn run(args: SweepArgs, given: &Given, settings: &Settings) -> anyhow::Result<Outcome> {
    if args.resume.is_some() {
        given.refuse_with_resume(&NOT_WITH_RESUME)?;
        given.refuse_with_resume(&TRACKED_ALREADY)?;
    }
    let observer = settings.observer();
    args.mlflow.check(settings)?;
    let stop = stop_on_signals()?;
    args.limit.watch(&stop, &observer)?;
    let storage = args.storage.storage(&settings.config)?;
    let (sweep_settings, dataset) = opened(&args, given, settings, observer.as_ref())?;
    let dataset = storage.staged(dataset, &stop, observer.as_ref())?;
    // Refuse invalid trials before a folder is created.
    sweep_settings.trials()?;
    let content = check_dataset(&dataset, &stop, observer.as_ref())?;
    check_stage_one(&sweep_settings.recipe, &sweep_settings.model, &content)?;
    let compute = settings.compute()?;
    let folder = match &args.resume {
        Some(folder) => folder.clone(),
        None => sweep_settings.create(&settings.config.runs_or(args.runs.clone()))?,
    };
    let opened = open_trackers(&TrackerContext {
        mlflow: Some(&args.mlflow),
        settings,
        observer: &observer,
    })?;
    let trackers: Vec<&dyn Tracker> = opened.iter().map(AsRef::as_ref).collect();
    let job = SweepJob {
        dataset,
        content,
        preprocessed_cache: storage.preprocessed_cache.as_ref(),
        settings: sweep_settings,
        compute,
        stop: &stop,
        trackers: &trackers,
        tags: provenance::tags(),
        on_update: &|rows| write_table(&folder, rows),
        folder: folder.clone(),
    };
    let rows = sweep(&job, observer.as_ref())?;
    print_table(&job, &rows, settings.json);
    Ok(match rows.iter().any(|row| row.failure.is_some()) {
        true => Outcome::SomeFailed,
        false => Outcome::AllDone,
    })
}

fn print_table(job: &SweepJob, rows: &[TrialRow], as_json: bool) {
    let folder = &job.folder;
    if as_json {
        let sweep = folder.display().to_string();
        print_out(&format!("{:#}\n", json!({"sweep": sweep, "trials": rows})));
        return;
    }
    print_out(&as_table(rows));
    print_out(&format!("  sweep  {}\n", folder.shown()));
    if let Some(best) = rows.first() {
        print_out(&format!(
            "  'ctseg fit --resume {}' writes the best trial to the model {}\n",
            best.run.shown(),
            job.settings.model.shown()
        ));
    }
}

/// The resumed or new sweep, and its dataset with its folds.
fn opened(
    args: &SweepArgs,
    given: &Given,
    settings: &Settings,
    observer: &dyn Observer,
) -> Result<(SweepSettings, Dataset)> {
    let of = |sweep: &SweepSettings| {
        Dataset::open_in(&sweep.dataset, sweep.data_root.as_deref())?.read_as(sweep.reading)
    };
    if let Some(folder) = &args.resume {
        let sweep = resumed(folder, args, given, settings)?;
        let mut dataset = of(&sweep)?;
        if let Some(name) = RunData::name_of(folder)? {
            dataset.name = name;
        }
        dataset.splits = PredefinedSplits::of_run(folder)?;
        return Ok((sweep, dataset));
    }
    let mut sweep = new_sweep(args, settings, observer)?;
    let mut dataset = of(&sweep)?;
    let preprocessed = nnunet_preprocessed();
    sweep.recipe =
        dataset.use_predefined_splits(sweep.recipe, preprocessed.as_deref(), observer)?;
    Ok((sweep, dataset))
}

/// The settings of the sweep in `folder`, with the data paths of the command line.
fn resumed(
    folder: &Path,
    args: &SweepArgs,
    given: &Given,
    settings: &Settings,
) -> Result<SweepSettings> {
    let stored = SweepSettings::read(folder)?;
    let before = DataPaths {
        data: stored.dataset.clone(),
        data_root: stored.data_root.clone(),
    };
    let (data, data_root) = (args.data.clone(), args.data_root.clone());
    let found = moved_data(given, before, data, data_root, settings)?;
    Ok(SweepSettings {
        dataset: absolute(&found.data)?,
        data_root: found.data_root.as_deref().map(absolute).transpose()?,
        ..stored
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::io(path, "find"))
}

fn new_sweep(
    args: &SweepArgs,
    settings: &Settings,
    observer: &dyn Observer,
) -> Result<SweepSettings> {
    let mut set = args.set.clone();
    if let Some(epochs) = args.epochs {
        set.push(format!("training.epochs={epochs}"));
    }
    let mut recipe = Recipe::named(args.stage.as_deref().unwrap_or("1"), &set)?;
    recipe.train_folds = match args.fold {
        FoldChoice::All => None,
        FoldChoice::One(fold) if fold < recipe.folds => Some(vec![fold]),
        FoldChoice::One(fold) => {
            return Err(Error::usage(format!(
                "--fold {fold}: the recipe has {}, numbered from 0",
                counted(recipe.folds, "fold")
            )));
        }
    };
    let config = &settings.config;
    let named = args.data.clone().or_else(|| config.data.clone());
    let (dataset, data_root) = match named {
        Some(data) => (
            data,
            args.data_root.clone().or_else(|| config.data_root.clone()),
        ),
        None => (generated::data_for(&recipe, observer)?, None),
    };
    Ok(SweepSettings {
        vary: args.vary.clone(),
        rungs: args.rungs,
        eta: args.eta,
        dataset: absolute(&dataset)?,
        data_root: data_root.as_deref().map(absolute).transpose()?,
        model: absolute(&config.model_or(args.model.clone()))?,
        seed: args.seed,
        reading: args.reading.reading(),
        recipe,
    })
}

/// Writes the table as text and as a picture to the sweep's folder.
fn write_table(folder: &Path, rows: &[TrialRow]) -> Result<()> {
    write_bytes_atomically(&folder.join("table.txt"), as_table(rows).as_bytes())?;
    let trials: Vec<(String, &Path)> = rows
        .iter()
        .map(|row| {
            (
                format!("{} {}", row.rank, short(&row.settings)),
                row.run.as_path(),
            )
        })
        .collect();
    curves::draw_trials(folder, &trials)
}

/// Settings with only the last part of their keys.
fn short(settings: &[String]) -> String {
    let last = |text: &String| match text.split_once('=') {
        Some((key, value)) => format!("{}={value}", key.rsplit('.').next().unwrap_or(key)),
        None => text.clone(),
    };
    settings.iter().map(last).collect::<Vec<_>>().join(" ")
}

fn as_table(rows: &[TrialRow]) -> String {
    let header = [
        "settings",
        "rank",
        "trial",
        "epochs",
        "best Dice",
        "loss",
        "seconds",
        "verdict",
    ];
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let verdict = match (&row.failure, row.verdict) {
                (Some(failure), _) => format!("failed: {failure}"),
                (None, Some(verdict)) => verdict.to_string(),
                (None, None) => "–".to_owned(),
            };
            vec![
                row.settings.join(" "),
                row.rank.to_string(),
                row.trial.clone(),
                row.epochs.to_string(),
                score(row.best_dice),
                score(row.loss),
                format!("{:.0}", row.seconds),
                verdict,
            ]
        })
        .collect();
    table(&header, &cells)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_keep_the_last_part_of_their_keys() {
        let of = |text: &str| short(&[text.to_owned()]);
        assert_eq!(
            of("training.optimiser.learning_rate=1e-2"),
            "learning_rate=1e-2"
        );
        assert_eq!(
            of("training.optimiser.learning_rate=0.01"),
            "learning_rate=0.01"
        );
        assert_eq!(of("folds=3"), "folds=3");
    }
}
