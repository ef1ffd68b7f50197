//! `ctseg evaluate`: compare label maps with references.

mod calibration;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::args::reading::GridArgs;
use crate::cli::args::tracked_run::{RecordArgs, Recorded};
use crate::cli::evaluation_table::{print_against, print_evaluation};
use crate::cli::outcome::Outcome;
use crate::cli::settings::Settings;
use crate::status;
use ctseg_base::atomic_file::create_folder;
use ctseg_base::progress::Observer;
use ctseg_base::{Error, Result};
use ctseg_core::dataset::reference::Reference;
use ctseg_core::run::state_file::StateKeeper;
use ctseg_core::run::tracker;
use ctseg_evaluate::calibration::Calibration;
use ctseg_evaluate::paired;
use ctseg_evaluate::paired::{Paired, paired};
use ctseg_evaluate::tolerances::{Tolerance, Tolerances};
use ctseg_evaluate::{Evaluation, evaluate};

#[derive(Args)]
pub struct EvaluateArgs {
    /// Label maps: a folder (of `ctseg predict`, or any other), or one file
    prediction: PathBuf,
    /// References: a folder of label maps, one label map, a dataset folder or descriptor
    reference: PathBuf,
    /// Folder for metrics.csv and summary.json, and for calibration.json, .csv and .png where probabilities lie beside
    /// the label maps [default: the folder of the label maps]
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Label maps of another model, of the same cases: what differs, with Wilcoxon's test, also in against.csv
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// How many millimetres surface Dice allows: 2.5 for all structures, liver=3 for one [default: 2]
    #[arg(
        long = "tolerance",
        value_name = "MM|STRUCTURE=MM",
        value_delimiter = ','
    )]
    tolerances: Vec<Tolerance>,
    /// Folder that a descriptor's paths are relative to
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
    let recorded = args.record.begun("evaluate", settings, &observer)?;
    let figures = kept(&args, &reference, &folder, observer.as_ref());
    if let Some(recorded) = recorded {
        told(&recorded, &args, figures.as_ref().ok(), &folder);
        recorded.ended(&tracker::Outcome::of(&figures));
    }
    let figures = figures?;
    print_evaluation(
        &figures.evaluation,
        figures.paired.as_deref(),
        &folder,
        settings.json,
    );
    if let (Some(paired), false) = (&figures.paired, settings.json) {
        print_against(paired, &folder);
    }
    if let (Some(calibration), false) = (&figures.calibration, settings.json) {
        calibration::print(calibration);
    }
    let Evaluation {
        cases, failures, ..
    } = &figures.evaluation;
    let uncalibrated = figures.calibration.map_or(0, |found| found.failures.len());
    Ok(
        match (cases.is_empty(), failures.len() + uncalibrated == 0) {
            (true, _) => Outcome::NothingDone,
            (false, true) => Outcome::AllDone,
            (false, false) => Outcome::SomeFailed,
        },
    )
}

/// What came of it.
struct Figures {
    evaluation: Evaluation,
    paired: Option<Vec<Paired>>,
    /// Where there are probabilities beside the label maps.
    calibration: Option<Calibration>,
}

/// [`evaluated`], with a state in the folder while it goes on; its figures take the state's place.
fn kept(
    args: &EvaluateArgs,
    reference: &Reference,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<Figures> {
    if !args.prediction.exists() {
        return evaluated(args, reference, folder, observer); // says so
    }
    let path = folder.join(status::EVALUATION);
    let state = StateKeeper::begin(&path, "evaluate", None, observer)?;
    let figures = evaluated(args, reference, folder, &state);
    state.ended(&tracker::Outcome::of(&figures));
    if figures.is_ok() {
        std::fs::remove_file(&path).map_err(Error::io(&path, "remove"))?;
    }
    figures
}

/// Compares, also the probabilities if there are any, and writes the figures into `folder`.
fn evaluated(
    args: &EvaluateArgs,
    reference: &Reference,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<Figures> {
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
    Ok(Figures {
        evaluation,
        paired,
        calibration,
    })
}

/// Tells the run what was compared with what, and what came of it.
fn told(recorded: &Recorded, args: &EvaluateArgs, figures: Option<&Figures>, folder: &Path) {
    recorded.parameters(&[
        ("prediction", args.prediction.display().to_string()),
        ("reference", args.reference.display().to_string()),
    ]);
    if let Some(figures) = figures {
        let evaluation = &figures.evaluation;
        recorded.models(&evaluation.models());
        recorded.figures(evaluation.points());
        let against = figures.paired.as_ref().map(|_| "against.csv");
        let files = ["summary.json", "metrics.csv"].into_iter().chain(against);
        let files: Vec<PathBuf> = files.map(|name| folder.join(name)).collect();
        recorded.files(&files);
        if let Some(calibration) = &figures.calibration {
            recorded.figures(calibration.points());
            recorded.files(&calibration::files(folder));
        }
    }
}
