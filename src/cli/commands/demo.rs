//! `ctseg demo`: an end-to-end run on generated phantoms.

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
use crate::cli::trackers::{TrackerContext, open_trackers};
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
use ctseg_evaluate::evaluate_cancellable;
use ctseg_evaluate::tolerances::Tolerances;
use ctseg_predict::{PredictJob, predict};
use ctseg_report::data::Report;
use ctseg_report::data::case_selection::CaseSelection;
use ctseg_report::data::evaluation::EvaluationSources;
use ctseg_report::html::{Destination, write};
use ctseg_report::pictures::comparison;
use ctseg_tracking::provenance;
use ctseg_train::fit::{FitJob, fit};

#[derive(Args)]
pub struct DemoArgs {
    /// Output folder
    #[arg(short, long, default_value = "ctseg-demo")]
    output: PathBuf,
    /// Random seed of phantoms and training
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of training phantoms
    #[arg(long, default_value_t = PhantomSet::default().train)]
    train: usize,
    /// Number of test phantoms
    #[arg(long, default_value_t = PhantomSet::default().test)]
    test: usize,
    /// Override a value in both stages' recipes, such as training.epochs=2
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
    observer.info(&format!(
        "1/5  generate {} training and {} test phantoms in {}",
        set.train,
        set.test,
        folder.join("data").shown()
    ));
    let descriptor = set.written(&folder.join("data"), observer.as_ref())?;
    let mut runs = Vec::new();
    for (number, stage) in (1..).zip(STAGES) {
        observer.info(&format!("{}/5  fit --stage {number}", number + 1));
        runs.push(trained(&args, stage, &descriptor, &stop, settings)?);
    }
    observer.info("4/5  predict the test phantoms");
    let dataset = Dataset::open(&descriptor)?;
    let job = prediction(&dataset, folder, &stop, settings)?;
    let summary = predict(&job, observer.as_ref())?;
    if !settings.json {
        predict_command::print_summary(&summary, &job.folder, false);
    }
    if summary.interrupted {
        return Ok(Outcome::Interrupted);
    }
    observer.info("5/5  evaluate and report");
    finish(&job, dataset, folder, settings, observer.as_ref())?;
    let is_whole = reported(&job, runs, &descriptor, folder, settings, observer.as_ref())?;
    if !settings.json {
        print_out(&format!(
            "demo finished in {:.0} s; results are in {}\n",
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

/// Checks the numbers of phantoms before any is generated.
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
        return Err(Error::usage("--test 0: expected 1 or more test phantoms").into());
    }
    Ok(())
}

/// Trains one stage of the demo's model. Returns the run folder.
fn trained(
    args: &DemoArgs,
    stage: &str,
    descriptor: &Path,
    stop: &AtomicBool,
    settings: &Settings,
) -> anyhow::Result<PathBuf> {
    let opened = open_trackers(&TrackerContext {
        mlflow: None,
        settings,
        observer: &settings.observer(),
    })?;
    let trackers: Vec<&dyn Tracker> = opened.iter().map(AsRef::as_ref).collect();
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
        preprocessed_cache: None,
        group: Arc::default(),
    };
    let summary = fit(&job, settings.observer().as_ref())?;
    if !settings.json {
        fit_command::print_summary(&summary, &job, false);
    }
    Ok(summary.run)
}

/// The prediction of the test phantoms.
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
        immediate_exit: None,
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
    let evaluation = evaluate_cancellable(
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

/// Writes `report.html` with both runs and the evaluation. Returns whether it is complete.
fn reported(
    job: &PredictJob,
    mut sources: Vec<PathBuf>,
    descriptor: &Path,
    folder: &Path,
    settings: &Settings,
    observer: &dyn ctseg_base::progress::Observer,
) -> anyhow::Result<bool> {
    sources.push(folder.to_path_buf());
    let evaluation_sources = EvaluationSources {
        reference: Some(Reference::Dataset(Dataset::open(descriptor)?)),
        predictions: Some(job.folder.clone()),
        images: None,
        reading: Reading::default(),
    };
    let report = Report::read(&sources, evaluation_sources, &CaseSelection::default())?;
    let to = Destination {
        file: &folder.join("report.html"),
        pictures: &folder.join("report_files"),
        max_bytes: 1_000_000 * report_command::DEFAULT_MB,
    };
    let written = write(&report, &to, observer)?;
    if !settings.json {
        report_command::print_written(&written, &to, false);
    }
    Ok(written.problems.is_empty())
}
