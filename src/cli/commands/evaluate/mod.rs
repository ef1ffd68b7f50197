//! `ctseg evaluate`: score label maps against references.

mod calibration;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::reading::GridArgs;
use crate::cli::args::tracked_run::{RecordArgs, TrackedRun};
use crate::cli::evaluation_table::{print_against, print_evaluation};
use crate::cli::outcome::Outcome;
use crate::cli::settings::Settings;
use crate::status;
use ctseg_base::atomic_file::create_folder;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::reference::Reference;
use ctseg_core::run::state_file::StateWriter;
use ctseg_core::run::tracker;
use ctseg_evaluate::calibration::Calibration;
use ctseg_evaluate::paired;
use ctseg_evaluate::paired::{Paired, paired};
use ctseg_evaluate::tolerances::{Tolerance, Tolerances};
use ctseg_evaluate::{Evaluation, evaluate};

#[derive(Args)]
pub struct EvaluateArgs {
    /// Label maps: a folder (from `ctseg predict` or any other tool), or one file
    prediction: PathBuf,
    /// References: a folder of label maps, one label map, or a dataset folder or descriptor
    reference: PathBuf,
    /// Folder for metrics.csv and summary.json, and for calibration.json, .csv and .png if the label maps have
    /// probabilities [default: the folder of the label maps]
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Compare with another model's label maps of the same cases: Wilcoxon test, against.csv
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// Tolerance of surface Dice in mm: 2.5 for all structures, liver=3 for one [default: 2]
    #[arg(
        long = "tolerance",
        value_name = "MM|STRUCTURE=MM",
        value_delimiter = ','
    )]
    tolerances: Vec<Tolerance>,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    #[command(flatten)]
    grid: GridArgs,
    #[command(flatten)]
    record: RecordArgs,
}

pub fn run(args: EvaluateArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    args.record.check(settings)?;
    let data_root = args.data_root.as_ref();
    let data_root = data_root.or(settings.config.data_root.as_ref());
    let reference = Reference::open(&args.reference, data_root.map(PathBuf::as_path))?
        .with_grid_tolerance(args.grid.tolerance());
    let folder = args.output.clone().unwrap_or_else(|| {
        let own = if args.prediction.is_dir() {
            Some(args.prediction.as_path())
        } else {
            args.prediction.parent()
        };
        own.unwrap_or(Path::new(".")).to_path_buf()
    });
    let run = args.record.start("evaluate", settings, &observer)?;
    let results = with_state_file(&args, &reference, &folder, observer.as_ref());
    if let Some(run) = run {
        log_run(&run, &args, results.as_ref().ok(), &folder);
        run.end(&tracker::Outcome::of(&results));
    }
    let results = results?;
    print_evaluation(
        &results.evaluation,
        results.paired.as_deref(),
        &folder,
        settings.json,
    );
    if let (Some(paired), false) = (&results.paired, settings.json) {
        print_against(paired, &folder);
    }
    if let (Some(calibration), false) = (&results.calibration, settings.json) {
        calibration::print(calibration);
    }
    let Evaluation {
        cases, failures, ..
    } = &results.evaluation;
    let uncalibrated = results.calibration.map_or(0, |found| found.failures.len());
    Ok(
        match (cases.is_empty(), failures.len() + uncalibrated == 0) {
            (true, _) => Outcome::NothingDone,
            (false, true) => Outcome::AllDone,
            (false, false) => Outcome::SomeFailed,
        },
    )
}

/// Results of an evaluation.
struct Results {
    evaluation: Evaluation,
    paired: Option<Vec<Paired>>,
    /// Of probabilities, if the label maps have them.
    calibration: Option<Calibration>,
}

/// Runs [`evaluated`] and keeps a state file in the folder until its results are written.
fn with_state_file(
    args: &EvaluateArgs,
    reference: &Reference,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<Results> {
    if !args.prediction.exists() {
        return evaluated(args, reference, folder, observer); // returns the error
    }
    let path = folder.join(status::EVALUATION);
    let state = StateWriter::start(&path, "evaluate", None, observer)?;
    let results = evaluated(args, reference, folder, &state);
    state.finish(&tracker::Outcome::of(&results));
    if results.is_ok() {
        std::fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
    }
    results
}

/// Evaluates label maps and any probabilities, and writes the results to `folder`.
fn evaluated(
    args: &EvaluateArgs,
    reference: &Reference,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<Results> {
    let tolerances: Tolerances = args.tolerances.iter().cloned().collect();
    let evaluation = evaluate(&args.prediction, reference, &tolerances, observer)?;
    let other = args.against.as_ref();
    let other = other.map(|other| evaluate(other, reference, &tolerances, observer));
    let paired = other.transpose()?.map(|other| paired(&evaluation, &other));
    create_folder(folder)?;
    evaluation.write(folder)?;
    if let Some(paired) = &paired {
        paired::write(folder, paired)?;
    }
    let calibration =
        calibration::measured(&args.prediction, reference, &evaluation, folder, observer)?;
    Ok(Results {
        evaluation,
        paired,
        calibration,
    })
}

/// Logs inputs and results to the tracked run.
fn log_run(run: &TrackedRun, args: &EvaluateArgs, results: Option<&Results>, folder: &Path) {
    run.log_parameters(&[
        ("prediction", args.prediction.display().to_string()),
        ("reference", args.reference.display().to_string()),
    ]);
    if let Some(results) = results {
        let evaluation = &results.evaluation;
        run.log_models(&evaluation.models());
        run.log_metrics(evaluation.tracker_metrics());
        let against = results.paired.as_ref().map(|_| "against.csv");
        let files = ["summary.json", "metrics.csv"].into_iter().chain(against);
        let files: Vec<PathBuf> = files.map(|name| folder.join(name)).collect();
        run.log_artifacts(&files);
        if let Some(calibration) = &results.calibration {
            run.log_metrics(calibration.tracker_metrics());
            run.log_artifacts(&calibration::files(folder));
        }
    }
}
