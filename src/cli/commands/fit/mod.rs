//! `ctseg fit`: train one stage.
//!
//! Over 400 lines: the flags are next to their handling by `--resume`.

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
use crate::cli::resume::{DataPaths, Given, TRACKED_ALREADY, moved_data};
use crate::cli::settings::Settings;
use crate::cli::signals::stop_on_signals;
use crate::cli::trackers::{TrackerContext, open_trackers};
use crate::cli::{distributed, launch_gpus};
use ctseg_base::Error;
use ctseg_base::limits::threads;
use ctseg_base::progress::{Observer, Silent};
use ctseg_core::dataset::generated;
use ctseg_core::dataset::laterality::without_unpaired_flips;
use ctseg_core::dataset::{Dataset, PredefinedSplits, Reading};
use ctseg_core::recipe::Recipe;
use ctseg_core::run::data::RunData;
use ctseg_core::run::folder::RunFolder;
use ctseg_core::run::tracker::Tracker;
use ctseg_engine::device::Compute;
use ctseg_engine::distributed::process_group::ProcessGroup;
use ctseg_report::pictures::comparison;
use ctseg_tracking::provenance;
use ctseg_train::fit::{FitJob, WorkerObserver, fit};

#[derive(Args)]
pub struct FitArgs {
    /// Recipe to train: 1 (coarse), 2 (refine), the name of a built-in recipe, or a recipe file
    #[arg(long, required_unless_present = "resume", value_name = "1|2|NAME|FILE")]
    pub(super) stage: Option<String>,
    /// Dataset folder or descriptor [default: generated phantoms]
    #[arg(long, env = "CTSEG_DATA")]
    pub(super) data: Option<PathBuf>,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    pub(super) data_root: Option<PathBuf>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Model folder to write the stage to [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    pub(super) model: Option<PathBuf>,
    /// Folder for run folders [default: runs]
    #[arg(long, env = "CTSEG_RUNS")]
    pub(super) runs: Option<PathBuf>,
    /// Fold to train, or all
    #[arg(long, value_name = "all|K", value_parser = parse_fold)]
    pub(super) fold: Option<FoldChoice>,
    /// Maximum number of epochs per fold; above the recipe's, early-stopping patience grows in proportion. With
    /// --resume, train up to this epoch, with the schedule recomputed
    #[arg(long)]
    epochs: Option<usize>,
    /// Time limit of the whole training, such as 90s, 20m or 1h30m
    #[arg(long, value_parser = parse_duration)]
    max_time: Option<Duration>,
    /// Data-loader threads; results do not depend on them [default: use the compute threads]
    #[arg(long, env = "CTSEG_LOADER_THREADS", value_name = "N")]
    loader_threads: Option<usize>,
    /// Random seed of weights, folds and sample order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Skip out-of-fold prediction, and with it the choice of postprocessing
    #[arg(long)]
    no_out_of_fold: bool,
    /// Train in this process alone, even under mpirun, srun or torchrun
    #[arg(long)]
    pub(crate) alone: bool,
    /// Override a recipe value, such as training.batch_size=4
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Initialise from the same stage of this model; layers that do not match are re-initialised
    #[arg(long, value_name = "MODEL")]
    pub(super) from: Option<PathBuf>,
    /// Resume the run in this folder, with its dataset, folds and model; the dataset must be unchanged (pass --data if
    /// it was moved)
    #[arg(long, value_name = "RUN")]
    pub(super) resume: Option<PathBuf>,
    #[command(flatten)]
    limit: LimitArgs,
    #[command(flatten)]
    storage: StorageArgs,
    #[command(flatten)]
    mlflow: MlflowArgs,
}

/// Flags that conflict with `--resume`, each with what the run uses instead.
const NOT_WITH_RESUME: [(&str, &str); 10] = [
    ("stage", "the run's own recipe"),
    ("set", "the run's own recipe"),
    ("no_out_of_fold", "the run's own recipe"),
    ("fold", "the run's own folds"),
    ("seed", "the run's own seed"),
    ("from", "the run's own weights"),
    ("model", "the run's own model"),
    ("runs", "the run's own folder"),
    ("grid_tolerance", "the run's own grid tolerance"),
    ("rescale_hu", "the run's own HU conversion"),
];

/// Options of `ctseg fit`. Separate from [`FitArgs`], because `ctseg submit` has its own `--gpus`.
#[derive(Args)]
pub struct FitCommand {
    #[command(flatten)]
    pub(crate) fit: FitArgs,
    /// Train on N local GPUs, one process each; training.batch_size is the total over all GPUs. Not needed under mpirun,
    /// srun or torchrun
    #[arg(long, env = GPUS, value_name = "N", conflicts_with = "alone")]
    gpus: Option<usize>,
}

impl FitCommand {
    /// Whether this process only launches others that train.
    pub(crate) fn launches_processes(&self) -> bool {
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
            .map_err(|_| "expected all, or a fold number from 0".to_owned()),
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
    let worker = match args.alone {
        true => None,
        false => distributed::worker_rank(settings)?,
    };
    match (gpus, &worker) {
        (Some(count), None) => return launch_gpus::launch(count, settings),
        (Some(count), Some(worker)) => {
            return Err(Error::usage(format!(
                "--gpus {count}: already started as {} processes, one per GPU; omit --gpus, or start a single process",
                worker.0.world_size
            ))
            .into());
        }
        (None, _) => {}
    }
    let runs = settings.config.runs_or(args.runs.clone());
    let (group, compute) = match worker {
        Some((worker, device)) => (
            distributed::join_process_group(&worker, device, &runs)?,
            Compute::open(device, settings.precision, settings.threads)?,
        ),
        None => (ProcessGroup::single(), settings.compute()?),
    };
    let group = Arc::new(group);
    let trained = trained(args, given, settings, runs, compute, &group);
    let ended = group.shutdown();
    let outcome = trained?;
    ended?;
    Ok(outcome)
}

fn trained(
    args: FitArgs,
    given: &Given,
    settings: &Settings,
    runs: PathBuf,
    compute: Compute,
    group: &Arc<ProcessGroup>,
) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let loader_threads = threads::loader_threads(args.loader_threads)?;
    let storage = args.storage.storage(&settings.config)?;
    let inputs = inputs(&args, given, settings, group, observer.as_ref())?;
    let mut dataset = inputs.dataset()?;
    // Before this point there is nothing to save, so that signals may end the process.
    let stop = stop_on_signals()?;
    args.limit.watch(&stop, &observer)?;
    let worker = WorkerObserver::of(group, observer.as_ref());
    // Of rank 0 alone, and of each rank.
    let (rank_zero, each_rank): (&dyn Observer, &dyn Observer) = match group.is_rank_zero() {
        true => (observer.as_ref(), observer.as_ref()),
        false => (&Silent, &worker),
    };
    let recipe = with_folds(&args, inputs.recipe, &mut dataset, rank_zero)?;
    let recipe = without_unpaired_flips(recipe, &dataset.structures, rank_zero);
    let dataset = storage.staged(dataset, &stop, each_rank)?;
    let context = TrackerContext {
        mlflow: Some(&args.mlflow),
        settings,
        observer: &observer,
    };
    let opened = group.on_rank_zero(|| open_trackers(&context))?;
    let opened = opened.unwrap_or_default();
    let trackers: Vec<&dyn Tracker> = opened.iter().map(AsRef::as_ref).collect();
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
        preprocessed_cache: storage.preprocessed_cache.as_ref(),
        group: Arc::clone(group),
    };
    let summary = fit(&job, observer.as_ref())?;
    if group.is_rank_zero() {
        print_summary(&summary, &job, settings.json);
    }
    Ok(Outcome::AllDone)
}

/// Recipe, data and model of a training.
struct Inputs {
    recipe: Recipe,
    data: PathBuf,
    data_root: Option<PathBuf>,
    /// The dataset's name, if it differs from the one at its present path.
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

/// Those of the resumed run, or those of the command line.
fn inputs(
    args: &FitArgs,
    given: &Given,
    settings: &Settings,
    group: &ProcessGroup,
    observer: &dyn Observer,
) -> anyhow::Result<Inputs> {
    if let Some(run) = &args.resume {
        return Ok(resumed(run, args, given, settings)?);
    }
    let recipe = recipe(args)?;
    // Rank 0 generates missing data; the others read it.
    let named = |observer| dataset_path(args, settings, &recipe, observer);
    let found = match group.on_rank_zero(|| named(observer))? {
        Some(first) => first,
        None => named(&Silent)?,
    };
    Ok(Inputs {
        recipe,
        data: found.data,
        data_root: found.data_root,
        name: None,
        model: settings.config.model_or(args.model.clone()),
        seed: args.seed,
        reading: args.reading.reading(),
    })
}

/// Sets the folds of the dataset and their number in the recipe: those of the resumed run, even if the dataset's own
/// file has changed, otherwise those of that file, if any.
fn with_folds(
    args: &FitArgs,
    recipe: Recipe,
    dataset: &mut Dataset,
    observer: &dyn Observer,
) -> Result<Recipe, Error> {
    if let Some(run) = &args.resume {
        dataset.splits = PredefinedSplits::of_run(run)?;
        return Ok(recipe);
    }
    dataset.use_predefined_splits(recipe, nnunet_preprocessed().as_deref(), observer)
}

/// The inputs stored in the folder `run`, with data and epochs of the command line.
fn resumed(
    run: &Path,
    args: &FitArgs,
    given: &Given,
    settings: &Settings,
) -> Result<Inputs, Error> {
    let (mut recipe, from) = RunFolder::read(run)?;
    if let Some(epochs) = args.epochs {
        let mut set = vec![format!("training.epochs={epochs}")];
        let patience = recipe.training.early_stopping.patience;
        if patience < recipe.training.epochs {
            // Keep the run's patience; only one that never takes effect grows with the epochs.
            set.push(format!("training.early_stopping.patience={patience}"));
        }
        recipe = Recipe::parsed(&recipe.to_toml()?, "--epochs", &set)?;
    }
    let stored = DataPaths {
        data: from.dataset,
        data_root: from.data_root,
    };
    let (data, data_root) = (args.data.clone(), args.data_root.clone());
    let found = moved_data(given, stored, data, data_root, settings)?;
    Ok(Inputs {
        recipe,
        data: found.data,
        data_root: found.data_root,
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

/// The dataset of flag, environment or settings file; without any, a generated one.
fn dataset_path(
    args: &FitArgs,
    settings: &Settings,
    recipe: &Recipe,
    observer: &dyn Observer,
) -> Result<DataPaths, Error> {
    let data_root = args
        .data_root
        .clone()
        .or_else(|| settings.config.data_root.clone());
    if let Some(data) = args.data.clone().or_else(|| settings.config.data.clone()) {
        return Ok(DataPaths { data, data_root });
    }
    Ok(DataPaths {
        data: generated::data_for(recipe, observer)?,
        data_root: None,
    })
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
