//! The command line: flags, environment and `ctseg.toml`, one file per command.

mod env;

mod bench;
mod calibrate;
mod config;
mod convert;
mod demo;
mod devices;
mod doctor;
mod duration;
mod evaluate;
mod evaluation_table;
mod export;
mod fingerprint;
mod fit;
mod import;
mod inspect;
mod inspect_parted;
mod inspect_run;
mod inspect_torch;
mod limit;
mod observing;
mod outcome;
mod plan;
mod predict;
mod print;
mod processes;
mod recorded;
mod reliability;
mod report;
mod settings;
mod signals;
mod sizes;
mod status;
mod storage;
mod submit;
mod sweep;
mod sync;
mod team;
mod tracking;

use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::outside::json_log::Log;
use config::Config;
use observing::Observing;
use settings::{Global, Settings};

pub use outcome::{Outcome, exit_code_of};

/// Two-stage segmentation of CT volumes: a coarse U-Net finds the region of interest, a second one refines
/// it.
///
/// Exit codes: 0 all done, 1 nothing could be done, 2 wrong usage, 3 some cases failed (the rest are
/// written), 75 interrupted but resumable.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
    /// The subcommand's name
    #[arg(skip)]
    name: String,
}

#[derive(Subcommand)]
enum Command {
    /// The whole story on generated phantoms: make data, fit both stages, predict, evaluate, report
    Demo(demo::DemoArgs),
    /// Train one stage
    Fit(fit::FitCommand),
    /// Train one stage with many settings and show which is best
    Sweep(sweep::SweepArgs),
    /// Show what is running, done, interrupted or failed
    Status(status::StatusArgs),
    /// Submit other commands as jobs of a cluster
    Submit(submit::SubmitArgs),
    /// Send the MLflow server what it has not yet of runs
    Sync(sync::SyncArgs),
    /// Segment volumes
    Predict(predict::PredictArgs),
    /// Compare label maps with references
    Evaluate(evaluate::EvaluateArgs),
    /// Show trainings and an evaluation as one HTML page
    Report(report::ReportArgs),
    /// Describe a dataset in figures and write stage recipes that fit it and a memory
    Plan(plan::PlanArgs),
    /// Write a dataset in the layout of nnU-Net or the Medical Segmentation Decathlon
    Convert(convert::ConvertArgs),
    /// Write a model in other programs' formats
    Export(export::ExportArgs),
    /// Measure how fast this machine computes
    Bench(bench::BenchArgs),
    /// Prepare a model for prediction in 8-bit integers, and compare it with the model as it is
    Calibrate(calibrate::CalibrateArgs),
    /// Take over models of other programs
    Import(import::ImportArgs),
    /// Show what a volume, dataset, recipe, model or run holds
    Inspect(inspect::InspectArgs),
    /// Tell what this machine has for ctseg, what is wrong with it, and what to do
    Doctor(doctor::DoctorArgs),
}

impl Command {
    /// Whether this process tells figures of work, where they are wanted. Who looks on or hands on does not, be it that
    /// a variable asks for them; of processes that train together the first one does, and not the one that began them.
    fn has_figures(&self) -> bool {
        match self {
            Self::Fit(args) if args.fit.alone => true,
            Self::Fit(args) => !args.begins_others() && !team::goes_along(),
            Self::Status(_) | Self::Submit(_) | Self::Inspect(_) | Self::Sync(_) => false,
            _ => true,
        }
    }
}

impl Cli {
    /// What the process was started with. Help, and a command line that cannot be meant, end it here.
    pub fn of_process() -> Self {
        let read = || {
            let matches = Self::command().try_get_matches()?;
            let mut cli = Self::from_arg_matches(&matches)?;
            cli.name = matches.subcommand_name().unwrap_or_default().to_owned();
            Ok(cli)
        };
        read().unwrap_or_else(|error: clap::Error| observing::refuse(&error))
    }

    /// Where the command's lines go.
    pub fn log(&self) -> Log {
        self.global.observing.log(&self.name)
    }

    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        // Settings that stop all other commands are what it has to tell of.
        if let Command::Doctor(args) = &self.command {
            return doctor::run(args, &self.global, &Self::command());
        }
        let figures = self.command.has_figures();
        let observing = Arc::new(self.global.observing.begun(&self.name, figures)?);
        let result = self.run_observed(&observing);
        observing.ended(match &result {
            Ok(outcome) => outcome.exit_code(),
            Err(error) => exit_code_of(error).exit_code(),
        });
        result
    }

    fn run_observed(self, observing: &Arc<Observing>) -> anyhow::Result<Outcome> {
        let config = Config::read(self.global.config.as_deref())?;
        let settings = Settings::new(self.global, config, observing)?;
        // Readers, resampling and augmentation share rayon's threads; there are no more than computing has.
        rayon::ThreadPoolBuilder::new()
            .num_threads(settings.threads)
            .build_global()?;
        match self.command {
            Command::Demo(args) => demo::run(args, &settings),
            Command::Fit(args) => fit::run(args, &settings),
            Command::Sweep(args) => sweep::run(args, &settings),
            Command::Status(args) => status::run(args, &settings),
            Command::Submit(args) => submit::run(args, &settings, Self::command()),
            Command::Sync(args) => sync::run(args, &settings),
            Command::Predict(args) => predict::run(args, &settings),
            Command::Evaluate(args) => evaluate::run(args, &settings),
            Command::Report(args) => report::run(args, &settings),
            Command::Plan(args) => plan::run(args, &settings),
            Command::Convert(args) => convert::run(args, &settings),
            Command::Export(args) => export::run(args, &settings),
            Command::Bench(args) => bench::run(args, &settings),
            Command::Calibrate(args) => calibrate::run(args, &settings),
            Command::Import(args) => import::run(&args, &settings),
            Command::Inspect(args) => inspect::run(args, &settings),
            Command::Doctor(_) => Ok(Outcome::AllDone), // was run above
        }
    }
}
