//! `ctseg fit`: train one stage.
//!
//! Over 400 lines: every flag stands beside what a run that goes on makes of it.

mod summary;

pub(crate) use summary::described;
pub use summary::print_summary;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use crate::cli::args::data_cache::StorageArgs;
use crate::cli::args::duration::parse_duration;
use crate::cli::args::reading::ReadingArgs;
use crate::cli::args::time_limit::LimitArgs;
use crate::cli::args::tracking::MlflowArgs;
use crate::cli::env::{GPUS, nnunet_preprocessed};
use crate::cli::outcome::Outcome;
use crate::cli::resume::{Given, TRACKED_ALREADY, moved_data};
use crate::cli::settings::Settings;
use crate::cli::signals::stop_on_signals;
use crate::cli::{distributed, launch_gpus};
use ctseg_base::Error;
use ctseg_base::limits::threads;
use ctseg_base::progress::{Observer, Silent};
use ctseg_core::dataset::generated;
use ctseg_core::dataset::laterality::mirrored_where_possible;
use ctseg_core::dataset::{Dataset, GivenSplits, Reading};
use ctseg_core::recipe::Recipe;
use ctseg_core::run::data::RunData;
use ctseg_core::run::folder::RunFolder;
use ctseg_core::run::tracker::Tracker;
use ctseg_engine::device::Compute;
use ctseg_engine::distributed::process_group::Team;
use ctseg_report::curves::Curves;
use ctseg_report::pictures::comparison;
use ctseg_tracking::provenance;
use ctseg_train::fit::{Along, FitJob, fit};

#[derive(Args)]
pub struct FitArgs {
    /// What to train: 1 (coarse), 2 (refine), the name of a built-in recipe, or a recipe file
    #[arg(long, required_unless_present = "resume", value_name = "1|2|NAME|FILE")]
    pub(super) stage: Option<String>,
    /// Dataset folder or descriptor; generated phantoms where none is named
    #[arg(long, env = "CTSEG_DATA")]
    pub(super) data: Option<PathBuf>,
    /// Folder that a descriptor's paths are relative to
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    pub(super) data_root: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Model folder that the stage goes into [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    pub(super) model: Option<PathBuf>,
    /// Folder for run folders [default: runs]
    #[arg(long, env = "CTSEG_RUNS")]
    pub(super) runs: Option<PathBuf>,
    /// Train this fold only, or all of them
    #[arg(long, value_name = "all|K", value_parser = parse_fold)]
    pub(super) fold: Option<FoldChoice>,
    /// Largest number of epochs per fold; where it is more than the recipe's, early stopping waits longer in proportion.
    /// With --resume, the run goes on to this number, and its schedule is computed for it
    #[arg(long)]
    epochs: Option<usize>,
    /// Time for the whole training, such as 90s, 20m, 1h30m
    #[arg(long, value_parser = parse_duration)]
    max_time: Option<Duration>,
    /// Threads of their own to prepare batches on; they change no batch [default: those that compute]
    #[arg(long, env = "CTSEG_LOADER_THREADS", value_name = "N")]
    loader_threads: Option<usize>,
    /// Decides weights, folds and the order of slices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not predict held-out cases when the folds are trained, and choose no clean-up on them
    #[arg(long)]
    no_out_of_fold: bool,
    /// Train by itself, even if mpirun, srun or torchrun began several processes
    #[arg(long)]
    pub(crate) alone: bool,
    /// Change a value of the recipe, such as training.batch_size=4
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Begin with the weights of this model's stage; those that do not fit the dataset's structures or the
    /// recipe begin anew
    #[arg(long, value_name = "MODEL")]
    pub(super) from: Option<PathBuf>,
    /// Continue the run in this folder, on its own dataset and folds and into its own model. The dataset must be
    /// unchanged; --data names it where it was moved
    #[arg(long, value_name = "RUN")]
    pub(super) resume: Option<PathBuf>,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    mlflow: MlflowArgs,
}

/// Flags that a run which goes on cannot honour, each with what it has of its own.
const NOT_WITH_RESUME: [(&str, &str); 10] = [
    ("stage", "the run's own recipe"),
    ("set", "the run's own recipe"),
    ("no_out_of_fold", "the run's own recipe"),
    ("fold", "the run's own folds"),
    ("seed", "the run's own seed"),
    ("from", "the run's own weights"),
    ("model", "the run's own model"),
    ("runs", "the run's own folder"),
    ("grid_tolerance", "the run's own reading of the data"),
    ("rescale_hu", "the run's own reading of the data"),
];

/// All that `ctseg fit` takes; `ctseg submit` has a `--gpus` of its own, of the cluster.
#[derive(Args)]
pub struct FitCommand {
    #[command(flatten)]
    pub(crate) fit: FitArgs,
    /// Train on so many GPUs of this machine, a process for each. Processes that mpirun, srun or torchrun began train
    /// together by themselves. Batches are shared: training.batch_size stays that of all together
    #[arg(long, env = GPUS, value_name = "N", conflicts_with = "alone")]
    gpus: Option<usize>,
}

impl FitCommand {
    /// Whether the training is other processes', which this one begins.
    pub(crate) fn begins_others(&self) -> bool {
        self.gpus.is_some()
    }
}

/// Which folds are trained.
#[derive(Debug, Clone, Copy)]
pub(super) enum FoldChoice {
    All,
    One(usize),
}

pub(super) fn parse_fold(text: &str) -> Result<FoldChoice, String> {
    match text {
        "all" => Ok(FoldChoice::All),
        number => number
            .parse()
            .map(FoldChoice::One)
            .map_err(|_| "expected all, or the number of a fold, from 0".to_owned()),
    }
}

pub fn run(
    FitCommand { fit: args, gpus }: FitCommand,
    given: &Given,
    settings: &Settings,
) -> anyhow::Result<Outcome> {
    args.mlflow.check(settings)?;
    if args.resume.is_some() {
        given.refuse_with_resume(&NOT_WITH_RESUME)?;
        given.refuse_with_resume(&TRACKED_ALREADY)?;
    }
    let place = match args.alone {
        true => None,
        false => distributed::place(settings)?,
    };
    match (gpus, &place) {
        (Some(count), None) => return launch_gpus::on_gpus(count, settings),
        (Some(count), Some(place)) => {
            return Err(Error::usage(format!(
                "--gpus {count}: {} processes were begun already, one for each GPU; leave it out, or begin one process",
                place.0.size
            ))
            .into());
        }
        (None, _) => {}
    }
    let runs = settings.config.runs_or(args.runs.clone());
    let (team, compute) = match place {
        Some((place, device)) => (
            distributed::formed(&place, device, &runs)?,
            Compute::open(device, settings.precision, settings.threads)?,
        ),
        None => (Team::alone(), settings.compute()?),
    };
    let team = Arc::new(team);
    let trained = trained((args, given), settings, runs, compute, &team);
    let ended = team.end();
    let outcome = trained?;
    ended?;
    Ok(outcome)
}

fn trained(
    (args, given): (FitArgs, &Given),
    settings: &Settings,
    runs: PathBuf,
    compute: Compute,
    team: &Arc<Team>,
) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let loader_threads = threads::loader_threads(args.loader_threads)?;
    let storage = args.storage.storage(&settings.config)?;
    let inputs = inputs((&args, given), settings, team, observer.as_ref())?;
    let mut dataset = inputs.dataset()?;
    // Up to here there is nothing to be kept, and a signal ends the process by itself.
    let stop = stop_on_signals()?;
    args.limit.watch(&stop, &observer)?;
    let says: &dyn Observer = match team.leads() {
        true => observer.as_ref(),
        false => &Silent,
    };
    let recipe = with_folds(&args, inputs.recipe, &mut dataset, says)?;
    let recipe = mirrored_where_possible(recipe, &dataset.structures, says);
    let dataset = match team.leads() {
        true => storage.near(dataset, &stop, says)?,
        false => storage.near(dataset, &stop, &Along::of(team, observer.as_ref()))?,
    };
    let curves = Curves::default();
    let mlflow = team
        .leads()
        .then(|| args.mlflow.tracker(settings, &observer));
    let mlflow = mlflow.transpose()?.flatten();
    let mut trackers: Vec<&dyn Tracker> = vec![&curves];
    trackers.extend(mlflow.iter().map(|mlflow| mlflow as &dyn Tracker));
    trackers.extend(settings.observing.tracker());
    let job = FitJob {
        recipe,
        dataset,
        dataset_path: inputs.data,
        data_root: inputs.data_root,
        model: inputs.model,
        runs,
        from: args.from,
        resume: args.resume,
        compute,
        loader_threads,
        seed: inputs.seed,
        max_time: args.max_time,
        stop: &stop,
        trackers: &trackers,
        tags: provenance::tags(),
        draw_comparison: Some(comparison::draw),
        trial: None,
        case_store: storage.case_store.as_ref(),
        team: Arc::clone(team),
    };
    let summary = fit(&job, observer.as_ref())?;
    if team.leads() {
        print_summary(&summary, &job, settings.json);
    }
    Ok(Outcome::AllDone)
}

/// What is trained, on which data, into which model.
struct Inputs {
    recipe: Recipe,
    data: PathBuf,
    data_root: Option<PathBuf>,
    /// The dataset's name, if it is not the one that it has where it lies now.
    name: Option<String>,
    model: PathBuf,
    seed: u64,
    reading: Reading,
}

impl Inputs {
    fn dataset(&self) -> Result<Dataset, Error> {
        let dataset = Dataset::open_in(&self.data, self.data_root.as_deref())?;
        let mut dataset = dataset.read_as(self.reading)?;
        if let Some(name) = &self.name {
            dataset.name.clone_from(name);
        }
        Ok(dataset)
    }
}

/// Those of the run that goes on, or what the command line names.
fn inputs(
    (args, given): (&FitArgs, &Given),
    settings: &Settings,
    team: &Team,
    observer: &dyn Observer,
) -> anyhow::Result<Inputs> {
    if let Some(run) = &args.resume {
        return Ok(resumed(run, (args, given), settings)?);
    }
    let recipe = recipe(args)?;
    // The first process makes the data where there is none, and the others find it.
    let named = |observer| dataset_path(args, settings, &recipe, observer);
    let first = team.leads().then(|| named(observer)).transpose();
    let (data, data_root) = match team.together(first)? {
        Some(first) => first,
        None => named(&Silent)?,
    };
    Ok(Inputs {
        recipe,
        data,
        data_root,
        name: None,
        model: settings.config.model_or(args.model.clone()),
        seed: args.seed,
        reading: args.reading.reading(),
    })
}

/// Gives the dataset the folds that are trained, and the recipe their number: those of the run that goes on, whatever
/// the dataset's file says by now, or those of that file, if there is one.
fn with_folds(
    args: &FitArgs,
    recipe: Recipe,
    dataset: &mut Dataset,
    observer: &dyn Observer,
) -> Result<Recipe, Error> {
    if let Some(run) = &args.resume {
        dataset.splits = GivenSplits::of_run(run)?;
        return Ok(recipe);
    }
    dataset.use_given_splits(recipe, nnunet_preprocessed().as_deref(), observer)
}

/// What the run in the folder `run` began with, with its data and epochs as the command line says.
fn resumed(
    run: &Path,
    (args, given): (&FitArgs, &Given),
    settings: &Settings,
) -> Result<Inputs, Error> {
    let (mut recipe, from) = RunFolder::read(run)?;
    if let Some(epochs) = args.epochs {
        let mut set = vec![format!("training.epochs={epochs}")];
        let patience = recipe.training.early_stopping.patience;
        if patience < recipe.training.epochs {
            // The run's own stands; one that never ends the run grows with the epochs.
            set.push(format!("training.early_stopping.patience={patience}"));
        }
        recipe = Recipe::parsed(&recipe.to_toml()?, "--epochs", &set)?;
    }
    let stored = (from.dataset, from.data_root);
    let named = (args.data.clone(), args.data_root.clone());
    let (data, data_root) = moved_data(given, stored, named, settings)?;
    Ok(Inputs {
        recipe,
        data,
        data_root,
        name: RunData::name_of(run)?,
        model: from.model,
        seed: from.seed,
        reading: from.reading,
    })
}

pub(super) fn recipe(args: &FitArgs) -> anyhow::Result<Recipe> {
    let stage = args.stage.as_deref().unwrap_or("1");
    let mut overrides = args.set.clone();
    if let Some(epochs) = args.epochs {
        overrides.push(format!("training.epochs={epochs}"));
    }
    if let Some(FoldChoice::One(fold)) = args.fold {
        overrides.push(format!("train_folds=[{fold}]"));
    }
    if args.no_out_of_fold {
        overrides.push("out_of_fold=false".to_owned());
    }
    let mut recipe = Recipe::named(stage, &overrides)?;
    if let Some(FoldChoice::All) = args.fold {
        recipe.train_folds = None;
    }
    Ok(recipe)
}

/// The dataset named by flag, environment or settings file; without any, one is generated here.
fn dataset_path(
    args: &FitArgs,
    settings: &Settings,
    recipe: &Recipe,
    observer: &dyn Observer,
) -> Result<(PathBuf, Option<PathBuf>), Error> {
    let data_root = args
        .data_root
        .clone()
        .or_else(|| settings.config.data_root.clone());
    if let Some(data) = args.data.clone().or_else(|| settings.config.data.clone()) {
        return Ok((data, data_root));
    }
    Ok((generated::data_for(recipe, observer)?, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_is_honoured_or_refused_with_resume() {
        const HONOURED: [&str; 14] = [
            "alone",
            "case_cache",
            "case_cache_size",
            "data",
            "data_root",
            "epochs",
            "gpus",
            "loader_threads",
            "max_time",
            "mlflow_artifact_root",
            "no_mlflow",
            "resume",
            "scratch",
            "stop_before_limit",
        ];
        let command = FitCommand::augment_args(clap::Command::new("fit"));
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            let mut refused = NOT_WITH_RESUME.iter().chain(&TRACKED_ALREADY);
            let refused = refused.any(|(own, _)| *own == id);
            assert!(refused != HONOURED.contains(&id), "{id}");
        }
    }
}
