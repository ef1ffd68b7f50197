//! `ctseg export`: one file per format.

mod nnunet;
mod onnx;
mod weights;

use clap::{Args, Subcommand};

use crate::cli::outcome::Outcome;
use crate::cli::settings::Settings;

#[derive(Args)]
pub struct ExportArgs {
    #[command(subcommand)]
    format: Format,
}

#[derive(Subcommand)]
enum Format {
    /// Export weights as safetensors files, with metadata on how to use them
    Safetensors(weights::WeightsArgs),
    /// Export a results folder for prediction with nnU-Net 2
    Nnunet(nnunet::NnunetArgs),
    /// Not supported yet: explains why, and what to use instead
    Onnx(onnx::OnnxArgs),
}

pub fn run(args: ExportArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    match args.format {
        Format::Safetensors(args) => weights::run(args, settings),
        Format::Nnunet(args) => nnunet::run(&args, settings),
        Format::Onnx(args) => onnx::run(&args),
    }
}
