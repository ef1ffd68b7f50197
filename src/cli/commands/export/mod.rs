//! `ctseg export`: a model in other programs' formats, one file per format.

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
    /// Weights as safetensors files, with metadata that say how to use them
    Safetensors(weights::WeightsArgs),
    /// A results folder that nnU-Net 2 loads and predicts with
    Nnunet(nnunet::NnunetArgs),
    /// Not possible yet: says why, and what to do instead
    Onnx(onnx::OnnxArgs),
}

pub fn run(args: ExportArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    match args.format {
        Format::Safetensors(args) => weights::run(args, settings),
        Format::Nnunet(args) => nnunet::run(&args, settings),
        Format::Onnx(args) => onnx::run(&args),
    }
}
