//! `ctseg doctor`: checks of this machine.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Command};

use crate::cli::args::devices::Devices;
use crate::cli::config::{Config, FILE, files};
use crate::cli::outcome::Outcome;
use crate::cli::pool;
use crate::cli::print::print_out;
use crate::cli::settings::Global;
use crate::doctor::disk::Place;
use crate::doctor::engine::Requested;
use crate::doctor::gpu;
use crate::doctor::gpu::Seen;
use crate::doctor::libtorch::LibTorch;
use crate::doctor::{
    Finding, State, as_json, as_text, cluster, cores, disk, engine, memory, model, process,
    settings, tracking, worst,
};
use ctseg_base::Error;
use ctseg_base::atomic_file::parent_of;
use ctseg_base::limits::host::Host;
use ctseg_base::limits::threads;
use ctseg_core::inference::memory_estimate::ComputeMode;
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::precision::{Precision, PrecisionChoice};
use ctseg_tracking::mlflow::settings::{Server, process_environment};

/// Exit codes: 0 no faults (there may be notes and warnings), 1 faults.
#[derive(Args)]
pub struct DoctorArgs {
    /// Run only fast checks (well below a second), without engines, checksums or servers; for health checks
    #[arg(long)]
    quick: bool,
    /// Dataset folder or descriptor to check
    #[arg(long, env = "CTSEG_DATA")]
    data: Option<PathBuf>,
    /// Base folder for relative paths in a descriptor
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    /// Model folder to check [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    model: Option<PathBuf>,
    /// Folder for run folders [default: runs]
    #[arg(long, env = "CTSEG_RUNS")]
    runs: Option<PathBuf>,
    /// MLflow experiment to check [default: ctseg]
    #[arg(long, env = "MLFLOW_EXPERIMENT_NAME", value_name = "NAME")]
    experiment: Option<String>,
    /// Read /proc, /sys and /dev from copies in this folder
    #[arg(long, env = "CTSEG_DOCTOR_ROOT", hide = true, value_name = "FOLDER")]
    machine: Option<PathBuf>,
}

/// `command` is the command line definition of ctseg, whose environment variables are known.
pub fn run(args: &DoctorArgs, global: &Global, command: &Command) -> anyhow::Result<Outcome> {
    let mut findings = Vec::new();
    let host = args
        .machine
        .as_deref()
        .map_or_else(Host::local, Host::with_root);
    let config = settings_file(global.config.as_deref(), &mut findings);
    findings.extend(settings::variables(&host, &own_variables(command)));
    let requested = requested(args, global, &config, &mut findings);
    pool::start(
        requested.threads,
        global.observing.log("doctor").observer().as_ref(),
    )?;
    hardware(&host, args, global, &requested, &config, &mut findings);
    let runs = config.runs_or(args.runs.clone());
    if let Some(data) = args.data.as_ref().or(config.data.as_ref()) {
        let root = args.data_root.as_ref().or(config.data_root.as_ref());
        findings.push(model::dataset(data, root.map(PathBuf::as_path), args.quick));
    }
    if !args.quick {
        let preferences = config.tracking(args.experiment.as_deref());
        let named = Server::find(&preferences, &process_environment);
        findings.extend(tracking::findings(&host, named, &runs));
    }
    findings.extend(cluster::findings(&host, SystemTime::now()));
    print_out(&match global.json {
        true => format!("{:#}\n", as_json(&findings)),
        false => as_text(&findings),
    });
    Ok(match worst(&findings) {
        State::Fault => Outcome::NothingDone,
        _ => Outcome::AllDone,
    })
}

/// Engines, GPUs, cores, memory and the memory needed by the model, disks.
fn hardware(
    host: &Host,
    args: &DoctorArgs,
    global: &Global,
    requested: &Requested,
    config: &Config,
    findings: &mut Vec<Finding>,
) {
    let model_path = config.model_or(args.model.clone());
    let runs = config.runs_or(args.runs.clone());
    // Before the engines, which may hang.
    let disks = disk::findings(&places(&runs, &model_path));
    let mode = match engine::gpus_seen() {
        Ok(gpus) => {
            engines(host, requested, gpus, findings);
            compute_mode(requested)
        }
        Err(hanging) => {
            findings.push(*hanging);
            compute_mode(&Requested {
                devices: vec![DeviceChoice::Flex],
                ..requested.clone()
            })
        }
    };
    findings.extend(cores::findings(host, global.threads, requested.threads));
    let (found, needed) = model::model(&model_path, mode, args.quick);
    // On a GPU, most of it is GPU memory.
    let needed = needed.filter(|_| !requested.names_gpu());
    findings.extend(memory::findings(host, needed.as_ref()));
    findings.extend(disks);
    findings.extend(process::findings(host));
    findings.push(found);
}

/// Engines, and the number of GPUs that libtorch sees.
fn engines(host: &Host, requested: &Requested, gpus: Option<usize>, findings: &mut Vec<Finding>) {
    let libtorch = LibTorch::loaded(host);
    findings.extend(engine::findings(requested, libtorch.as_ref()));
    let seen = gpus.map(|gpus| Seen {
        gpus,
        libtorch: libtorch.unwrap_or_default(),
        problem: DeviceChoice::gpu_problem().map(str::to_owned),
    });
    // Then every command with `auto` fails.
    let stops_auto = !requested.names_devices() && DeviceChoice::gpu_problem().is_some();
    findings.push(gpu::finding(
        &gpu::Facts::of(host),
        seen.as_ref(),
        requested.names_gpu() || stops_auto,
    ));
}

/// Folders that are written to.
fn places(runs: &Path, model: &Path) -> [Place; 4] {
    let place = |what, path: &Path, unless_written, unless_room| Place {
        what,
        path: path.to_path_buf(),
        unless_written,
        unless_room,
    };
    [
        place("runs", runs, State::Fault, State::Fault),
        // A model is replaced by a complete copy next to it; prediction only reads it.
        place("model", parent_of(model), State::Note, State::Fault),
        place(
            "working folder",
            Path::new("."),
            State::Warning,
            State::Fault,
        ),
        // Used by libraries, not by ctseg itself.
        place(
            "temporary",
            &std::env::temp_dir(),
            State::Warning,
            State::Warning,
        ),
    ]
}

/// The settings files, or the defaults if they are invalid.
fn settings_file(named: Option<&Path>, findings: &mut Vec<Finding>) -> Config {
    const CHECK: &str = "settings";
    match Config::read(named) {
        Ok(config) => {
            let read = files(named).into_iter();
            let read: Vec<String> = read.map(|file| file.path.display().to_string()).collect();
            let found = match read.as_slice() {
                [] => format!("no {FILE} in the working folder, none specified"),
                [file] => file.clone(),
                files => files.join(", then "),
            };
            findings.push(Finding::ok(CHECK, found));
            config
        }
        Err(error) => {
            let advice =
                "see docs/settings.md for its keys; --config or CTSEG_CONFIG selects the file";
            findings.push(Finding::fault(CHECK, error.to_string(), advice));
            Config::default()
        }
    }
}

/// Devices, precision and threads, with defaults for invalid ones.
fn requested(
    args: &DoctorArgs,
    global: &Global,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> Requested {
    let mut or_default = |found: Result<Requested, Error>, default: Requested| {
        found.unwrap_or_else(|error| {
            let advice = "correct it on the command line, in the environment or in ctseg.toml";
            findings.push(Finding::fault("settings", error.to_string(), advice));
            default
        })
    };
    let default = Requested {
        devices: vec![DeviceChoice::Auto],
        precision: PrecisionChoice::Auto,
        threads: threads::available_cores(),
        quick: args.quick,
    };
    let threads = threads::resolve(global.threads);
    let requested = threads.map(|threads| Requested {
        threads,
        ..default.clone()
    });
    let requested = or_default(requested, default);
    let devices: Result<Devices, Error> =
        global.device.clone().map_or_else(|| config.devices(), Ok);
    let with_devices = devices.map(|devices| Requested {
        devices: devices.0,
        ..requested.clone()
    });
    let requested = or_default(with_devices, requested);
    let precision = global.precision.map_or_else(|| config.precision(), Ok);
    let with_precision = precision.map(|precision| Requested {
        precision,
        ..requested.clone()
    });
    or_default(with_precision, requested)
}

/// Precision and memory use of the first requested device.
fn compute_mode(requested: &Requested) -> ComputeMode {
    let device = requested
        .devices
        .first()
        .copied()
        .unwrap_or_default()
        .resolved();
    ComputeMode {
        precision: requested.precision.on(device).unwrap_or(Precision::F32),
        im2col_threads: match device {
            DeviceChoice::Flex => requested.threads as u64,
            _ => 0,
        },
    }
}

/// The environment variables of all commands.
fn own_variables(command: &Command) -> Vec<String> {
    let mut names = Vec::new();
    collect_variables(command, &mut names);
    names.sort();
    names.dedup();
    names
}

fn collect_variables(command: &Command, names: &mut Vec<String>) {
    let variables = command
        .get_arguments()
        .filter_map(|argument| argument.get_env());
    names.extend(variables.filter_map(|name| name.to_str().map(str::to_owned)));
    for command in command.get_subcommands() {
        collect_variables(command, names);
    }
}
