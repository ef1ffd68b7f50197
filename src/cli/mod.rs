//! The command line: flags, environment and `ctseg.toml`, one file per command.

mod bench;
mod calibrate;
mod config;
mod convert;
mod demo;
mod devices;
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
mod plan;
mod predict;
mod processes;
mod recorded;
mod reliability;
mod report;
mod sizes;
mod storage;
mod sweep;
mod sync;
mod team;
mod tracking;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::cpu_budget;
use crate::error::Error;
use crate::pipeline::cost_table as cost;
use crate::table;
use crate::tensors::device::{Compute, DeviceChoice};
use crate::tensors::precision::PrecisionChoice;
use config::Config;
use devices::Devices;

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
}

/// What every command takes.
#[derive(Args)]
struct Global {
    /// Settings file; `ctseg.toml` in the working folder is read if it is there
    #[arg(long, global = true, env = "CTSEG_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the result as JSON on stdout
    #[arg(long, global = true)]
    json: bool,
    /// Engine and device: auto, flex, libtorch, libtorch:cuda:N; for predict also several: libtorch:cuda:0,1
    #[arg(long, global = true, env = "CTSEG_DEVICE")]
    device: Option<Devices>,
    /// Numbers that networks compute in: auto (bf16 where the device has it), f32, bf16, f16, int8 (after `ctseg calibrate`)
    #[arg(long, global = true, env = "CTSEG_PRECISION")]
    precision: Option<PrecisionChoice>,
    /// Threads to compute with [default: the cores this process may use]
    #[arg(long, global = true, env = "CTSEG_THREADS")]
    threads: Option<usize>,
}

#[derive(Subcommand)]
enum Command {
    /// The whole story on generated phantoms: make data, fit both stages, predict, evaluate, report
    Demo(demo::DemoArgs),
    /// Train one stage
    Fit(fit::FitArgs),
    /// Train one stage with many settings and show which is best
    Sweep(sweep::SweepArgs),
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
}

/// How a command ended when it did not fail as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    AllDone,
    NothingDone,
    WrongUsage,
    SomeFailed,
    Interrupted,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(match outcome {
            Outcome::AllDone => 0,
            Outcome::NothingDone => 1,
            Outcome::WrongUsage => 2,
            Outcome::SomeFailed => 3,
            Outcome::Interrupted => 75,
        })
    }
}

/// How a command that failed as a whole ends.
pub fn exit_code_of(error: &anyhow::Error) -> Outcome {
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted(_)) => Outcome::Interrupted,
        Some(Error::Usage(_)) => Outcome::WrongUsage,
        _ => Outcome::NothingDone,
    }
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let config = Config::read(self.global.config.as_deref())?;
        let threads = cpu_budget::resolve(self.global.threads)?;
        // Readers, resampling and augmentation share rayon's threads; there are no more than computing has.
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()?;
        let devices = match self.global.device {
            Some(devices) => devices,
            None => config.devices()?,
        };
        let settings = Settings {
            device: devices.first(),
            devices,
            precision: match self.global.precision {
                Some(precision) => precision,
                None => config.precision()?,
            },
            threads,
            json: self.global.json,
            config,
        };
        match self.command {
            Command::Demo(args) => demo::run(args, &settings),
            Command::Fit(args) => fit::run(args, &settings),
            Command::Sweep(args) => sweep::run(args, &settings),
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
        }
    }
}

/// What flags, environment and settings file say together.
struct Settings {
    config: Config,
    /// All that were named.
    devices: Devices,
    /// The first of them.
    device: DeviceChoice,
    precision: PrecisionChoice,
    threads: usize,
    json: bool,
}

impl Settings {
    /// The engine that was asked for, ready.
    ///
    /// # Errors
    /// Several were asked for.
    fn compute(&self) -> Result<Compute, Error> {
        match self.computes()?.as_slice() {
            [compute] => Ok(compute.clone()),
            several => Err(Error::usage(format!(
                "--device names {} devices; this command uses one, only predict shares its work among several",
                several.len()
            ))),
        }
    }

    /// The engines that were asked for, ready.
    fn computes(&self) -> Result<Vec<Compute>, Error> {
        let devices = self.devices.0.iter();
        devices
            .map(|device| Compute::open(*device, self.precision, self.threads))
            .collect()
    }
}

/// A flag that SIGINT and SIGTERM set; a second SIGINT ends the process at once.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, Arc::clone(&stop))?;
    signal_hook::flag::register(SIGINT, Arc::clone(&stop))?;
    signal_hook::flag::register(SIGTERM, Arc::clone(&stop))?;
    Ok(stop)
}

/// What SIGINT and SIGTERM ask for.
struct Asked {
    /// To stop after the work under way: the first signal.
    stop: Arc<AtomicBool>,
    /// To leave at once: a second one.
    leave: Arc<AtomicBool>,
}

/// Schedulers may send the same request along several ways: to the process, to its group, to its step. On a busy
/// machine these arrive some hundred milliseconds apart.
fn same_request(signal: i32) -> Duration {
    match signal {
        SIGTERM => Duration::from_secs(1),
        // Of a person, who may press Ctrl-C twice.
        _ => Duration::from_millis(200),
    }
}

/// Listens to signals; a third one ends the process as it stands.
fn stop_then_leave_on_signals() -> anyhow::Result<Asked> {
    let asked = Asked {
        stop: Arc::default(),
        leave: Arc::default(),
    };
    let (stop, leave) = (Arc::clone(&asked.stop), Arc::clone(&asked.leave));
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        let mut last: Option<Instant> = None;
        for signal in signals.forever() {
            if last.is_some_and(|last| last.elapsed() < same_request(signal)) {
                continue;
            }
            last = Some(Instant::now());
            if !stop.swap(true, Ordering::Relaxed) {
                continue;
            }
            if leave.swap(true, Ordering::Relaxed) {
                low_level::exit(130);
            }
        }
    });
    Ok(asked)
}

/// Prints results. A reader that has gone away (`| head`) is no reason to fail.
fn print_out(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
