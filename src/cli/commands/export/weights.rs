//! `ctseg export safetensors`: a model's weights.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::words::counted;
use ctseg_interop::safetensors::weights::export_weights;

#[derive(Args)]
pub struct WeightsArgs {
    /// Model folder
    model: PathBuf,
    /// Folder for one file per network (stage2_fold0.safetensors), or one file (weights.safetensors) for all, with
    /// prefixes such as stage2.fold_0.
    #[arg(short, long)]
    output: PathBuf,
    /// Export only this stage
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
    stage: Option<u8>,
    /// Overwrite existing files
    #[arg(long)]
    overwrite: bool,
}

pub fn run(args: WeightsArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let files = export_weights(&args.model, args.stage, &args.output, args.overwrite)?;
    if settings.json {
        let files: Vec<Value> = files
            .iter()
            .map(|file| {
                json!({"path": file.path, "networks": file.networks, "tensors": file.tensors, "values": file.values})
            })
            .collect();
        print_out(&format!("{:#}\n", json!({"files": files})));
        return Ok(Outcome::AllDone);
    }
    for file in files {
        let networks = match file.networks {
            1 => String::new(),
            several => format!("{}, ", counted(several, "network")),
        };
        print_out(&format!(
            "{}: {networks}{}, {}\n",
            file.path.shown(),
            counted(file.tensors, "tensor"),
            counted(file.values, "number")
        ));
    }
    Ok(Outcome::AllDone)
}
