//! `ctseg demo`: everything once, on generated phantoms.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Args;

use super::{fit as fit_command, predict as predict_command, report as report_command};
use crate::cli::evaluation_table::print_evaluation;
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use crate::cli::signals::stop_on_signals;
use ctseg_base::Error;
use ctseg_base::text::printable::Shown;
use ctseg_core::dataset::generated::phantoms::PhantomSet;
use ctseg_core::dataset::reference::Reference;
use ctseg_core::dataset::{Dataset, Reading};
use ctseg_core::inference::threshold::Thresholds;
use ctseg_core::outputs::Outputs;
use ctseg_core::outputs::inputs::plan_outputs;
use ctseg_core::recipe::Recipe;
use ctseg_core::run::tracker::Tracker;
use ctseg_evaluate::evaluate_unless_stopped;
use ctseg_evaluate::tolerances::Tolerances;
use ctseg_predict::{PredictJob, predict};
use ctseg_report::curves::Curves;
use ctseg_report::data::Report;
use ctseg_report::data::choice::Wanted;
use ctseg_report::data::evaluation::Hints;
use ctseg_report::html::{Destination, write};
use ctseg_report::pictures::comparison;
use ctseg_tracking::provenance;
use ctseg_train::fit::{FitJob, fit};

#[derive(Args)]
pub struct DemoArgs {
    /// Folder for everything the demo makes
    #[arg(short, long, default_value = "ctseg-demo")]
    output: PathBuf,
    /// Decides the phantoms and the training
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Phantoms to train on
    #[arg(long, default_value_t = PhantomSet::default().train)]
    train: usize,
    /// Phantoms to test on
    #[arg(long, default_value_t = PhantomSet::default().test)]
    test: usize,
    /// Change a value of both stages' recipes, such as training.epochs=2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub fn run(args: DemoArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let observer = settings.observer();
    let stop = stop_on_signals()?;
    let folder = args.output.as_path();
    let set = PhantomSet {
        train: args.train,
        test: args.test,
        seed: args.seed,
    };
    check_numbers(&args)?;
    observer.say(&format!(
        "1/5  {} phantoms to train on and {} to test, in {}",
        set.train,
        set.test,
        folder.join("data").shown()
    ));
    let descriptor = set.written(&folder.join("data"), observer.as_ref())?;
    let mut runs = Vec::new();
    for (number, stage) in (1..).zip(STAGES) {
        observer.say(&format!("{}/5  fit --stage {number}", number + 1));
        runs.push(trained(&args, stage, &descriptor, &stop, settings)?);
    }
    observer.say("4/5  predict the phantoms that were not trained on");
    let dataset = Dataset::open(&descriptor)?;
    let job = prediction(&dataset, folder, &stop, settings)?;
    let summary = predict(&job, observer.as_ref())?;
    if !settings.json {
        predict_command::print_summary(&summary, &job.folder, false);
    }
    if summary.interrupted {
        return Ok(Outcome::Interrupted);
    }
    observer.say("5/5  evaluate and report");
    finish(&job, dataset, folder, settings, observer.as_ref())?;
    let is_whole = reported(&job, runs, &descriptor, folder, settings, observer.as_ref())?;
    if !settings.json {
        print_out(&format!(
            "demo done in {:.0} s; everything is in {}\n",
            started.elapsed().as_secs_f64(),
            folder.shown()
        ));
    }
    Ok(if summary.failures.is_empty() && is_whole {
        Outcome::AllDone
    } else {
        Outcome::SomeFailed
    })
}

/// The recipes of both stages.
const STAGES: [&str; 2] = ["demo-coarse", "demo-refine"];

/// Whether there are phantoms for what is done with them, before any is made or trained on.
fn check_numbers(args: &DemoArgs) -> anyhow::Result<()> {
    for stage in STAGES {
        let recipe = Recipe::named(stage, &args.set)?;
        if args.train < recipe.folds {
            return Err(Error::usage(format!(
                "--train {} is too few: the recipe {stage} has folds = {}; expected --train {} or more, or lower folds with --set folds={}",
                args.train,
                recipe.folds,
                recipe.folds,
                args.train.max(2)
            ))
            .into());
        }
    }
    if args.test == 0 {
        return Err(Error::usage("--test 0: expected 1 or more phantoms to test on").into());
    }
    Ok(())
}

/// Trains one stage into the demo's model; the run's folder.
fn trained(
    args: &DemoArgs,
    stage: &str,
    descriptor: &Path,
    stop: &AtomicBool,
    settings: &Settings,
) -> anyhow::Result<PathBuf> {
    let curves = Curves::default();
    let mut trackers: Vec<&dyn Tracker> = vec![&curves];
    trackers.extend(settings.observing.tracker());
    let job = FitJob {
        recipe: Recipe::named(stage, &args.set)?,
        dataset: Dataset::open(descriptor)?,
        dataset_path: descriptor.to_path_buf(),
        data_root: None,
        model: args.output.join("model"),
        runs: args.output.join("runs"),
        from: None,
        resume: None,
        compute: settings.compute()?,
        loader_threads: None,
        seed: args.seed,
        max_time: None,
        stop,
        trackers: &trackers,
        tags: provenance::tags(),
        draw_comparison: Some(comparison::draw),
        trial: None,
        case_store: None,
        team: Arc::default(),
    };
    let summary = fit(&job, settings.observer().as_ref())?;
    if !settings.json {
        fit_command::print_summary(&summary, &job, false);
    }
    Ok(summary.run)
}

/// The phantoms that were not trained on.
fn prediction<'a>(
    dataset: &Dataset,
    folder: &Path,
    stop: &'a AtomicBool,
    settings: &Settings,
) -> anyhow::Result<PredictJob<'a>> {
    let test = dataset
        .cases
        .iter()
        .filter(|case| dataset.is_test(&case.id));
    let inputs: Vec<PathBuf> = test.map(|case| case.image.clone()).collect();
    let (cases, predictions) = plan_outputs(&inputs, &folder.join("predictions"))?;
    Ok(PredictJob {
        cases,
        folder: predictions,
        models: vec![folder.join("model")],
        computes: vec![settings.compute()?],
        tta: None,
        postprocess: true,
        thresholds: Thresholds::default(),
        overwrite: false,
        max_ram: None,
        rescale_hu: None,
        probabilities: None,
        outputs: Outputs::default(),
        statistics: true,
        shard: None,
        claiming: None,
        on_attention: None,
        stop,
        leaving: None,
    })
}

fn finish(
    job: &PredictJob,
    dataset: Dataset,
    folder: &Path,
    settings: &Settings,
    observer: &dyn ctseg_base::progress::Observer,
) -> anyhow::Result<()> {
    let tolerances = Tolerances::default();
    let evaluation = evaluate_unless_stopped(
        &job.folder,
        &Reference::Dataset(dataset),
        &tolerances,
        job.stop,
        observer,
    )?;
    evaluation.write(folder)?;
    print_evaluation(&evaluation, None, folder, settings.json);
    Ok(())
}

/// Writes `report.html` on both runs and the evaluation; whether nothing is missing in it.
fn reported(
    job: &PredictJob,
    mut sources: Vec<PathBuf>,
    descriptor: &Path,
    folder: &Path,
    settings: &Settings,
    observer: &dyn ctseg_base::progress::Observer,
) -> anyhow::Result<bool> {
    sources.push(folder.to_path_buf());
    let hints = Hints {
        reference: Some(Reference::Dataset(Dataset::open(descriptor)?)),
        predictions: Some(job.folder.clone()),
        images: None,
        reading: Reading::default(),
    };
    let report = Report::read(&sources, hints, &Wanted::default())?;
    let to = Destination {
        file: &folder.join("report.html"),
        pictures: &folder.join("report_files"),
        most_bytes: 1_000_000 * report_command::DEFAULT_MB,
    };
    let written = write(&report, &to, observer)?;
    if !settings.json {
        report_command::print_written(&written, &to, false);
    }
    Ok(written.problems.is_empty())
}
