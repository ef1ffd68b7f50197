//! The command line: flags, environment and `ctseg.toml`, one file per command.

mod args;
mod commands;
pub mod config;
mod distributed;
mod env;
mod evaluation_table;
mod fingerprint;
mod launch_gpus;
mod logging;
mod outcome;
mod pool;
mod print;
mod resume;
mod settings;
mod signals;

pub use outcome::{Outcome, exit_code_of};

use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::log::json::Log;

use config::Config;
use logging::Observing;
use resume::Given;
use settings::{Global, Settings};

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
    /// Its flags
    #[arg(skip)]
    given: Given,
}

#[derive(Subcommand)]
enum Command {
    /// The whole story on generated phantoms: make data, fit both stages, predict, evaluate, report
    Demo(commands::demo::DemoArgs),
    /// Train one stage
    Fit(commands::fit::FitCommand),
    /// Train one stage with many settings and show which is best
    Sweep(commands::sweep::SweepArgs),
    /// Show what is running, done, interrupted or failed
    Status(commands::status::StatusArgs),
    /// Submit other commands as jobs of a cluster
    Submit(commands::submit::SubmitArgs),
    /// Send the MLflow server what it has not yet of runs
    Sync(commands::sync::SyncArgs),
    /// Segment volumes
    Predict(commands::predict::PredictArgs),
    /// Compare label maps with references
    Evaluate(commands::evaluate::EvaluateArgs),
    /// Show trainings and an evaluation as one HTML page
    Report(commands::report::ReportArgs),
    /// Describe a dataset in figures and write stage recipes that fit it and a memory
    Plan(commands::plan::PlanArgs),
    /// Write a dataset in the layout of nnU-Net or the Medical Segmentation Decathlon
    Convert(commands::convert::ConvertArgs),
    /// Write a model in other programs' formats
    Export(commands::export::ExportArgs),
    /// Measure how fast this machine computes
    Bench(commands::bench::BenchArgs),
    /// Prepare a model for prediction in 8-bit integers, and compare it with the model as it is
    Calibrate(commands::quantise::CalibrateArgs),
    /// Take over models of other programs
    Import(commands::import::ImportArgs),
    /// Show what a volume, dataset, recipe, model or run holds
    Inspect(commands::inspect::InspectArgs),
    /// Tell what this machine has for ctseg, what is wrong with it, and what to do
    Doctor(commands::doctor::DoctorArgs),
}

impl Command {
    /// Whether this process tells figures of work, where they are wanted. Who looks on or hands on does not, be it that
    /// a variable asks for them; of processes that train together the first one does, and not the one that began them.
    fn has_figures(&self) -> bool {
        match self {
            Self::Fit(args) if args.fit.alone => true,
            Self::Fit(args) => !args.begins_others() && !distributed::goes_along(),
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
            cli.given = Given::of(&matches);
            Ok(cli)
        };
        read().unwrap_or_else(|error: clap::Error| logging::refuse(&error))
    }

    /// Where the command's lines go.
    pub fn log(&self) -> Log {
        self.global.observing.log(&self.name)
    }

    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        signals::report_size_limit();
        // Settings that stop all other commands are what it has to tell of.
        if let Command::Doctor(args) = &self.command {
            return commands::doctor::run(args, &self.global, &Self::command());
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
            Command::Calibrate(args) => commands::quantise::run(args, &settings),
            Command::Import(args) => commands::import::run(&args, &settings),
            Command::Inspect(args) => commands::inspect::run(args, &settings),
            Command::Doctor(_) => Ok(Outcome::AllDone), // was run above
        }
    }
}
