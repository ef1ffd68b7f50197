//! `ctseg bench`: speed of training and inference on this machine's engines.

use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::Error;
use ctseg_base::limits::threads::{peak_memory_mb, reset_peak_memory};
use ctseg_base::text::table::table;
use ctseg_engine::benchmark::{Measurement, Pass, Throughput, measure};
use ctseg_engine::device::Compute;
use ctseg_engine::losses::LossConfig;
use ctseg_engine::networks::NetworkConfig;

#[derive(Args)]
pub struct BenchArgs {
    /// Network to benchmark [default: unet2d at 4 × 256² and unet3d at 2 × 96³]
    #[arg(long, value_parser = PossibleValuesParser::new(network_names()))]
    network: Option<String>,
    /// Channels per level
    #[arg(long, value_delimiter = ',', requires = "network")]
    widths: Vec<usize>,
    /// Patch size in voxels: z,y,x, or y,x for 2D networks
    #[arg(long, value_delimiter = ',', requires = "network")]
    size: Vec<usize>,
    /// Batch size
    #[arg(long, requires = "network")]
    batch: Option<usize>,
    /// Number of structures (output channels)
    #[arg(long, default_value_t = 5)]
    structures: usize,
    /// Training loss, by its name in recipes
    #[arg(long, default_value = "bce_dice")]
    loss: String,
    /// Measure only this pass [default: both]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Duration of each measurement, in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Recompute activations in the backward pass instead of storing them
    #[arg(long)]
    recompute: bool,
}

/// The networks that take single slices or volumes.
fn network_names() -> Vec<&'static str> {
    let takes_neighbours =
        |name: &&&str| NetworkConfig::from_name(name).is_ok_and(|network| network.neighbours() > 0);
    let names = NetworkConfig::NAMES.iter();
    names
        .filter(|name| !takes_neighbours(name))
        .copied()
        .collect()
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Forward,
    Training,
}

/// A network and its batch.
struct Subject {
    network: NetworkConfig,
    /// (z, y, x)
    size: [usize; 3],
    batch: usize,
}

pub fn run(args: BenchArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let compute = settings.compute()?;
    let passes = match args.mode {
        Some(Mode::Forward) => vec![Pass::Forward],
        Some(Mode::Training) => vec![Pass::Training],
        None => vec![Pass::Forward, Pass::Training],
    };
    if args.recompute && !(compute.choice.is_libtorch() && passes.contains(&Pass::Training)) {
        return Err(Error::usage("--recompute: only supported for training on libtorch").into());
    }
    let time = Duration::try_from_secs_f64(args.seconds).map_err(|_| {
        Error::usage(format!(
            "--seconds {}: expected a positive number",
            args.seconds
        ))
    })?;
    let loss = LossConfig::from_name(&args.loss)
        .map_err(|error| Error::usage(format!("--loss: {error}")))?;
    let mut found = Vec::new();
    for subject in subjects(&args)? {
        for pass in &passes {
            let measurement = Measurement {
                network: &subject.network,
                size: subject.size,
                batch: subject.batch,
                structures: args.structures,
                loss: &loss,
                pass: *pass,
                time,
                recompute: args.recompute,
            };
            compute.release_memory()?;
            compute.reset_peak()?;
            reset_peak_memory();
            let throughput = measure(&measurement, &compute)?;
            found.push(described(&measurement, &throughput, &compute, settings)?);
        }
    }
    if settings.json {
        let value = match found.as_slice() {
            [one] => one.clone(),
            all => json!(all),
        };
        print_out(&format!("{value:#}\n"));
    } else {
        print_out(&as_table(&found, &compute, settings));
    }
    Ok(Outcome::AllDone)
}

fn subjects(args: &BenchArgs) -> anyhow::Result<Vec<Subject>> {
    let Some(name) = &args.network else {
        return Ok(vec![standard("unet2d")?, standard("unet3d")?]);
    };
    let mut subject = standard(name)?;
    if !args.widths.is_empty() {
        subject.network = with_widths(name, &args.widths)?;
    }
    let dimensions = subject.network.dimensions();
    subject.size = match (dimensions, args.size.as_slice()) {
        (_, []) => subject.size,
        (2, [y, x]) => [1, *y, *x],
        (3, [z, y, x]) => [*z, *y, *x],
        (_, other) => {
            return Err(Error::usage(format!(
                "--size: {} numbers for {}; expected y,x for 2D networks and z,y,x for 3D networks",
                other.len(),
                subject.network.name()
            ))
            .into());
        }
    };
    subject.batch = args.batch.unwrap_or(subject.batch);
    Ok(vec![subject])
}

/// The network with default settings, but fewer levels for U-Nets on volumes.
fn standard(name: &str) -> Result<Subject, Error> {
    let network = NetworkConfig::from_name(name)?;
    if network.dimensions() == 2 {
        return Ok(Subject {
            network,
            size: [1, 256, 256],
            batch: 4,
        });
    }
    Ok(Subject {
        network: match network.unet().is_some() {
            true => with_widths(name, &[32, 64, 128, 256])?,
            false => network,
        },
        size: [96, 96, 96],
        batch: 2,
    })
}

fn with_widths(name: &str, widths: &[usize]) -> Result<NetworkConfig, Error> {
    serde_json::from_value(json!({ "kind": name, "widths": widths }))
        .map_err(|error| Error::usage(format!("--widths: {error}")))
}

fn described(
    measurement: &Measurement,
    throughput: &Throughput,
    compute: &Compute,
    settings: &Settings,
) -> anyhow::Result<Value> {
    let space = &measurement.size[3 - measurement.network.dimensions()..];
    Ok(json!({
        "engine": if compute.choice.is_libtorch() { "libtorch" } else { "flex" },
        "device": compute.choice.to_string(),
        "precision": compute.precision.to_string(),
        "network": measurement.network.name(),
        "settings": measurement.network,
        "size": space,
        "batch": measurement.batch,
        "structures": measurement.structures,
        "loss": measurement.loss.name(),
        "mode": match measurement.pass { Pass::Forward => "forward", Pass::Training => "training" },
        "recompute": measurement.recompute && measurement.pass == Pass::Training,
        "threads": settings.threads,
        "steps": throughput.steps,
        "items_per_second": throughput.items_per_second,
        "voxels_per_second": throughput.voxels_per_second,
        "seconds_per_step_median": throughput.seconds_per_step,
        "peak_memory_mb": match compute.peak_device_memory()? {
            Some(bytes) => bytes as f64 / 1_048_576.0,
            None => peak_memory_mb().unwrap_or(f64::NAN),
        },
    }))
}

fn as_table(found: &[Value], compute: &Compute, settings: &Settings) -> String {
    let number =
        |value: &Value, digits: usize| format!("{:.digits$}", value.as_f64().unwrap_or(f64::NAN));
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|one| {
            vec![
                one["network"].as_str().unwrap_or_default().to_owned(),
                one["size"].to_string(),
                one["batch"].to_string(),
                one["mode"].as_str().unwrap_or_default().to_owned(),
                number(&one["items_per_second"], 2),
                number(
                    &json!(one["voxels_per_second"].as_f64().map(|v| v / 1e6)),
                    3,
                ),
                number(&one["peak_memory_mb"], 0),
            ]
        })
        .collect();
    format!(
        "{compute}, {} threads\n{}",
        settings.threads,
        table(
            &[
                "network",
                "size",
                "batch",
                "mode",
                "items/s",
                "Mvoxels/s",
                "peak MB"
            ],
            &rows
        )
    )
}
