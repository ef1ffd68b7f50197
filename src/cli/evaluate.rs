//! `ctseg evaluate`: compare label maps with references.

use std::path::{Path, PathBuf};

use clap::Args;

use super::recorded::{RecordArgs, Recorded};
use super::table::{score, table};
use super::{Outcome, Settings, print_out, reliability};
use crate::error::{Error, Result};
use crate::outside::progress;
use crate::pipeline::evaluation::{Evaluation, evaluate};
use crate::pipeline::observer::Observer;
use crate::pipeline::reference::Reference;
use crate::pipeline::reliability::Calibration;
use crate::pipeline::tracker;

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
    /// Folder that a descriptor's paths are relative to
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    #[command(flatten)]
    record: RecordArgs,
}

pub fn run(args: EvaluateArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = progress::for_stderr();
    let data_root = args.data_root.as_ref();
    let data_root = data_root.or(settings.config.data_root.as_ref());
    let reference = Reference::open(&args.reference, data_root.map(PathBuf::as_path))?;
    let folder = args.output.clone().unwrap_or_else(|| {
        let own = if args.prediction.is_dir() {
            Some(args.prediction.as_path())
        } else {
            args.prediction.parent()
        };
        own.unwrap_or(Path::new(".")).to_path_buf()
    });
    let recorded = args.record.begun("evaluate", settings, &observer)?;
    let evaluation = evaluated(&args.prediction, &reference, &folder, observer.as_ref());
    if let Some(recorded) = recorded {
        told(&recorded, &args, evaluation.as_ref().ok(), &folder);
        recorded.ended(&tracker::Outcome::of(&evaluation));
    }
    let (evaluation, calibration) = evaluation?;
    print_evaluation(&evaluation, &folder, settings.json);
    if let (Some(calibration), false) = (&calibration, settings.json) {
        reliability::print(calibration);
    }
    let failures = calibration.map_or(0, |found| found.failures.len()) + evaluation.failures.len();
    Ok(match (evaluation.cases.is_empty(), failures == 0) {
        (true, _) => Outcome::NothingDone,
        (false, true) => Outcome::AllDone,
        (false, false) => Outcome::SomeFailed,
    })
}

/// Compares, also the probabilities if there are any, and writes the figures into `folder`.
fn evaluated(
    prediction: &Path,
    reference: &Reference,
    folder: &Path,
    observer: &dyn Observer,
) -> Result<(Evaluation, Option<Calibration>)> {
    let evaluation = evaluate(prediction, reference, observer)?;
    std::fs::create_dir_all(folder).map_err(Error::io(folder, "create the folder"))?;
    evaluation.write(folder)?;
    let calibration = reliability::measured(prediction, reference, &evaluation, folder, observer)?;
    Ok((evaluation, calibration))
}

/// Tells the run what was compared with what, and what came of it.
fn told(
    recorded: &Recorded,
    args: &EvaluateArgs,
    evaluated: Option<&(Evaluation, Option<Calibration>)>,
    folder: &Path,
) {
    recorded.parameters(&[
        ("prediction", args.prediction.display().to_string()),
        ("reference", args.reference.display().to_string()),
    ]);
    if let Some((evaluation, calibration)) = evaluated {
        recorded.models(&evaluation.models());
        recorded.figures(evaluation.points());
        let files = ["summary.json", "metrics.csv"].map(|name| folder.join(name));
        recorded.files(&files);
        if let Some(calibration) = calibration {
            recorded.figures(calibration.points());
            recorded.files(&reliability::files(folder));
        }
    }
}

pub fn print_evaluation(evaluation: &Evaluation, folder: &Path, as_json: bool) {
    let summary = evaluation.to_json();
    if as_json {
        print_out(&format!("{summary:#}\n"));
        return;
    }
    const METRICS: [&str; 5] = ["dice", "iou", "precision", "recall", "accuracy"];
    let mut rows: Vec<Vec<String>> = evaluation
        .structures
        .iter()
        .enumerate()
        .map(|(index, structure)| {
            let dice = evaluation.summary_of(index, "dice");
            let mut row = vec![structure.name.clone()];
            row.extend(
                METRICS
                    .map(|metric| score(evaluation.summary_of(index, metric).and_then(|s| s.mean))),
            );
            row.push(dice.as_ref().map_or(0, |s| s.defined).to_string());
            row.push(dice.map_or(0, |s| s.undefined).to_string());
            row
        })
        .collect();
    let mut mean = vec!["mean".to_owned()];
    mean.extend(METRICS.map(|metric| score(evaluation.mean(metric))));
    rows.push(mean);
    print_out(&table(
        &[
            "structure",
            "dice",
            "iou",
            "precision",
            "recall",
            "accuracy",
            "cases",
            "undefined",
        ],
        &rows,
    ));
    let percent = |key: &str| summary[key].as_f64().map(|v| 100.0 * v);
    if let (Some(recall), Some(share)) = (percent("roi_recall"), percent("roi_share")) {
        print_out(&format!(
            "stage 1's regions hold {recall:.2} % of the reference structures in {share:.1} % of the volume\n"
        ));
    }
    print_out(&format!(
        "{} cases compared, {} failed; metrics.csv and summary.json in {}\n",
        evaluation.cases.len(),
        evaluation.failures.len(),
        folder.display()
    ));
}
