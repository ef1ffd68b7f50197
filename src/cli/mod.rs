//! The command line: flags, environment and `ctseg.toml`, one file per command.

mod args;
mod commands;
pub mod config;
mod distributed;
mod env;
mod evaluation_table;
mod fingerprint;
mod help;
mod launch_gpus;
mod logging;
mod outcome;
mod pool;
mod print;
mod resume;
mod settings;
mod signals;
mod trackers;

pub use outcome::{Outcome, exit_code_of};

use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::log::json::Log;

use config::Config;
use logging::Observing;
use resume::Given;
use settings::{Global, Settings};

/// Two-stage segmentation of CT volumes: a coarse U-Net finds the region of interest, a second one refines it.
///
/// Exit codes: 0 success, 1 failure, 2 usage error, 3 some cases failed (the others are written), 75 interrupted and
/// resumable.
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
    /// Its flags
    #[arg(skip)]
    given: Given,
}

#[derive(Subcommand)]
enum Command {
    /// Run the end-to-end demo on generated phantoms
    ///
    /// Trains both stages, predicts, evaluates and writes a report: a few minutes, without data or a GPU.
    Demo(commands::demo::DemoArgs),
    /// Train one stage
    Fit(commands::fit::FitCommand),
    /// Search the hyperparameters of one stage by successive halving
    Sweep(commands::sweep::SweepArgs),
    /// Show the state of trainings, sweeps, predictions and evaluations
    Status(commands::status::StatusArgs),
    /// Submit commands as cluster jobs
    Submit(commands::submit::SubmitArgs),
    /// Upload pending runs to MLflow
    Sync(commands::sync::SyncArgs),
    /// Segment volumes
    Predict(commands::predict::PredictArgs),
    /// Score label maps against references
    Evaluate(commands::evaluate::EvaluateArgs),
    /// Write an HTML report of trainings and an evaluation
    Report(commands::report::ReportArgs),
    /// Write stage recipes that fit a dataset and the available memory
    Plan(commands::plan::PlanArgs),
    /// Convert a dataset to nnU-Net's or the Decathlon's layout
    ///
    /// The Decathlon is the Medical Segmentation Decathlon (MSD).
    Convert(commands::convert::ConvertArgs),
    /// Export a model to another format
    Export(commands::export::ExportArgs),
    /// Benchmark networks on this machine
    Bench(commands::bench::BenchArgs),
    /// Prepare a model for int8 prediction and compare it with the original
    #[command(alias = "calibrate")]
    Quantize(commands::quantise::QuantiseArgs),
    /// Import a model of nnU-Net or TotalSegmentator
    Import(commands::import::ImportArgs),
    /// Show a volume, dataset, recipe, model, run or weights file
    Inspect(commands::inspect::InspectArgs),
    /// Check this machine for problems and suggest fixes
    Doctor(commands::doctor::DoctorArgs),
}

impl Command {
    /// Whether this process may write the metrics file. Commands that only monitor or submit work do not, even where
    /// `CTSEG_METRICS_FILE` is set. In distributed training only rank 0 does, and not the process that launched it.
    fn writes_metrics(&self) -> bool {
        match self {
            Self::Fit(args) if args.fit.alone => true,
            Self::Fit(args) => !args.launches_processes() && !distributed::is_worker_rank(),
            Self::Status(_) | Self::Submit(_) | Self::Inspect(_) | Self::Sync(_) => false,
            _ => true,
        }
    }
}

impl Cli {
    /// The parser, whose help lists the commands by task.
    pub fn parser() -> clap::Command {
        help::grouped(Self::command())
    }

    /// Parses the command line. Exits with help if that was asked for, and with an error if it is invalid.
    pub fn of_process() -> Self {
        let read = || {
            let matches = Self::parser().try_get_matches()?;
            let mut cli = Self::from_arg_matches(&matches)?;
            cli.name = matches.subcommand_name().unwrap_or_default().to_owned();
            cli.given = Given::of(&matches);
            Ok(cli)
        };
        read().unwrap_or_else(|error: clap::Error| logging::refuse(&error))
    }

    pub fn log(&self) -> Log {
        self.global.observing.log(&self.name)
    }

    pub fn run(self) -> anyhow::Result<Outcome> {
        signals::report_size_limit();
        // Settings that stop all other commands are findings here.
        if let Command::Doctor(args) = &self.command {
            return commands::doctor::run(args, &self.global, &Self::command());
        }
        let writes_metrics = self.command.writes_metrics();
        let observing = Arc::new(self.global.observing.start(&self.name, writes_metrics)?);
        let result = self.run_observed(&observing);
        observing.ended(match &result {
            Ok(outcome) => outcome.exit_code(),
            Err(error) => exit_code_of(error).exit_code(),
        });
        result
    }

    fn run_observed(self, observing: &Arc<Observing>) -> anyhow::Result<Outcome> {
        let config = Config::read(self.global.config.as_deref())?;
        let mut settings = Settings::new(self.global, config, observing)?;
        settings.threads = pool::start(settings.threads, settings.observer().as_ref())?;
        match self.command {
            Command::Demo(args) => commands::demo::run(args, &settings),
            Command::Fit(args) => commands::fit::run(args, &self.given, &settings),
            Command::Sweep(args) => commands::sweep::run(args, &self.given, &settings),
            Command::Status(args) => commands::status::run(args, &settings),
            Command::Submit(args) => commands::submit::run(args, &settings, Self::command()),
            Command::Sync(args) => commands::sync::run(args, &settings),
            Command::Predict(args) => commands::predict::run(args, &settings),
            Command::Evaluate(args) => commands::evaluate::run(args, &settings),
            Command::Report(args) => commands::report::run(args, &settings),
            Command::Plan(args) => commands::plan::run(args, &settings),
            Command::Convert(args) => commands::convert::run(args, &settings),
            Command::Export(args) => commands::export::run(args, &settings),
            Command::Bench(args) => commands::bench::run(args, &settings),
            Command::Quantize(args) => commands::quantise::run(args, &settings),
            Command::Import(args) => commands::import::run(&args, &settings),
            Command::Inspect(args) => commands::inspect::run(args, &settings),
            Command::Doctor(_) => Ok(Outcome::AllDone), // was run above
        }
    }
}
