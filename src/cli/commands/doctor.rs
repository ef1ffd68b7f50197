//! `ctseg doctor`: what this machine has, and what is wrong with it.

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
use crate::doctor::engine::Asked;
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
use ctseg_core::inference::memory_estimate::Way;
use ctseg_engine::device::DeviceChoice;
use ctseg_engine::precision::{Precision, PrecisionChoice};
use ctseg_tracking::mlflow::settings::{Server, process_environment};

/// Exit codes: 0 nothing is wrong (notes and warnings are fine), 1 there is a fault.
#[derive(Args)]
pub struct DoctorArgs {
    /// Look only at what takes well below a second: no engine at work, no checksums, no server; for health checks
    #[arg(long)]
    quick: bool,
    /// Dataset folder or descriptor to look at
    #[arg(long, env = "CTSEG_DATA")]
    data: Option<PathBuf>,
    /// Folder that a descriptor's paths are relative to
    #[arg(long, env = "CTSEG_DATA_ROOT")]
    data_root: Option<PathBuf>,
    /// Model folder to look at [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    model: Option<PathBuf>,
    /// Folder for run folders [default: runs]
    #[arg(long, env = "CTSEG_RUNS")]
    runs: Option<PathBuf>,
    /// MLflow experiment to look for [default: ctseg]
    #[arg(long, env = "MLFLOW_EXPERIMENT_NAME", value_name = "NAME")]
    experiment: Option<String>,
    /// Take /proc, /sys and /dev of another machine, copied below this folder, for this one's
    #[arg(long, env = "CTSEG_DOCTOR_ROOT", hide = true, value_name = "FOLDER")]
    machine: Option<PathBuf>,
}

/// `command` is the whole command line of ctseg, whose variables are looked at.
pub fn run(args: &DoctorArgs, global: &Global, command: &Command) -> anyhow::Result<Outcome> {
    let mut findings = Vec::new();
    let host = args.machine.as_deref().map_or_else(Host::this, Host::below);
    let config = settings_file(global.config.as_deref(), &mut findings);
    findings.extend(settings::variables(&host, &own_variables(command)));
    let asked = asked(args, global, &config, &mut findings);
    pool::start(
        asked.threads,
        global.observing.log("doctor").observer().as_ref(),
    )?;
    hardware(&host, args, global, &asked, &config, &mut findings);
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

/// Engines, GPUs, cores, memory with the model that is to fit into it, disks.
fn hardware(
    host: &Host,
    args: &DoctorArgs,
    global: &Global,
    asked: &Asked,
    config: &Config,
    findings: &mut Vec<Finding>,
) {
    let model_path = config.model_or(args.model.clone());
    let runs = config.runs_or(args.runs.clone());
    // Whatever hangs below, these have looked.
    let disks = disk::findings(&places(&runs, &model_path));
    let way = match engine::gpus_seen() {
        Ok(gpus) => {
            engines(host, asked, gpus, findings);
            way(asked)
        }
        Err(silent) => {
            findings.push(*silent);
            way(&Asked {
                devices: vec![DeviceChoice::Flex],
                ..asked.clone()
            })
        }
    };
    findings.extend(cores::findings(host, global.threads, asked.threads));
    let (found, needed) = model::model(&model_path, way, args.quick);
    // On a GPU most of it is not this machine's memory.
    let needed = needed.filter(|_| !asked.names_gpu());
    findings.extend(memory::findings(host, needed.as_ref()));
    findings.extend(disks);
    findings.extend(process::findings(host));
    findings.push(found);
}

/// Engines and the `gpus` that libtorch sees.
fn engines(host: &Host, asked: &Asked, gpus: Option<usize>, findings: &mut Vec<Finding>) {
    let libtorch = LibTorch::loaded(host);
    findings.extend(engine::findings(asked, libtorch.as_ref()));
    let seen = gpus.map(|gpus| Seen {
        gpus,
        libtorch: libtorch.unwrap_or_default(),
        problem: DeviceChoice::gpu_problem().map(str::to_owned),
    });
    // No command begins with `auto` then.
    let stops_auto = !asked.names_devices() && DeviceChoice::gpu_problem().is_some();
    findings.push(gpu::judged(
        &gpu::Facts::of(host),
        seen.as_ref(),
        asked.names_gpu() || stops_auto,
    ));
}

/// The folders that are written to.
fn places(runs: &Path, model: &Path) -> [Place; 4] {
    let place = |what, path: &Path, unless_written, unless_room| Place {
        what,
        path: path.to_path_buf(),
        unless_written,
        unless_room,
    };
    [
        place("runs", runs, State::Fault, State::Fault),
        // Models are replaced as a whole, beside themselves; to predict they are only read.
        place("model", parent_of(model), State::Note, State::Fault),
        place(
            "working folder",
            Path::new("."),
            State::Warning,
            State::Fault,
        ),
        // Nothing of ctseg's goes there; libraries' does.
        place(
            "temporary",
            &std::env::temp_dir(),
            State::Warning,
            State::Warning,
        ),
    ]
}

/// The settings files; the defaults where they cannot be used.
fn settings_file(named: Option<&Path>, findings: &mut Vec<Finding>) -> Config {
    const CHECK: &str = "settings";
    match Config::read(named) {
        Ok(config) => {
            let read = files(named).into_iter();
            let read: Vec<String> = read.map(|(file, _)| file.display().to_string()).collect();
            let found = match read.as_slice() {
                [] => format!("no {FILE} in the working folder, none is named"),
                [file] => format!("{file} is read"),
                files => format!("{} are read", files.join(" and, below it, ")),
            };
            findings.push(Finding::ok(CHECK, found));
            config
        }
        Err(error) => {
            let advice =
                "README, Use, has what may stand in it; --config or CTSEG_CONFIG names the file";
            findings.push(Finding::fault(CHECK, error.to_string(), advice));
            Config::default()
        }
    }
}

/// Devices, precision and threads, the defaults in the place of what cannot be used.
fn asked(
    args: &DoctorArgs,
    global: &Global,
    config: &Config,
    findings: &mut Vec<Finding>,
) -> Asked {
    let mut or_default = |found: Result<Asked, Error>, usual: Asked| {
        found.unwrap_or_else(|error| {
            let advice = "correct it on the command line, in the environment or in ctseg.toml";
            findings.push(Finding::fault("settings", error.to_string(), advice));
            usual
        })
    };
    let usual = Asked {
        devices: vec![DeviceChoice::Auto],
        precision: PrecisionChoice::Auto,
        threads: threads::available_cores(),
        quick: args.quick,
    };
    let threads = threads::resolve(global.threads);
    let asked = threads.map(|threads| Asked {
        threads,
        ..usual.clone()
    });
    let asked = or_default(asked, usual);
    let devices: Result<Devices, Error> =
        global.device.clone().map_or_else(|| config.devices(), Ok);
    let with_devices = devices.map(|devices| Asked {
        devices: devices.0,
        ..asked.clone()
    });
    let asked = or_default(with_devices, asked);
    let precision = global.precision.map_or_else(|| config.precision(), Ok);
    let with_precision = precision.map(|precision| Asked {
        precision,
        ..asked.clone()
    });
    or_default(with_precision, asked)
}

/// How the first device that is asked for works.
fn way(asked: &Asked) -> Way {
    let device = asked
        .devices
        .first()
        .copied()
        .unwrap_or_default()
        .resolved();
    Way {
        precision: asked.precision.on(device).unwrap_or(Precision::F32),
        unfolding_threads: match device {
            DeviceChoice::Flex => asked.threads as u64,
            _ => 0,
        },
    }
}

/// The environment variables of all commands.
fn own_variables(command: &Command) -> Vec<String> {
    let mut names = Vec::new();
    gather(command, &mut names);
    names.sort();
    names.dedup();
    names
}

fn gather(command: &Command, names: &mut Vec<String>) {
    let variables = command
        .get_arguments()
        .filter_map(|argument| argument.get_env());
    names.extend(variables.filter_map(|name| name.to_str().map(str::to_owned)));
    for command in command.get_subcommands() {
        gather(command, names);
    }
}
