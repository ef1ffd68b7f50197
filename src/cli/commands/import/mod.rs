//! `ctseg import`: models of other programs.

mod nnunet;
mod totalsegmentator;

use clap::{Args, Subcommand};

use crate::cli::outcome::Outcome;
use crate::cli::settings::Settings;

#[derive(Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// A model of nnU-Net 2: a results folder, a model folder in it, or a zip of nnUNetv2_export_model_to_zip
    Nnunet(nnunet::NnunetArgs),
    /// A task of TotalSegmentator, from the weights that it has downloaded: a model of several parts
    Totalsegmentator(totalsegmentator::TotalsegmentatorArgs),
}

pub fn run(args: &ImportArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    match &args.from {
        From::Nnunet(args) => nnunet::run(args, settings),
        From::Totalsegmentator(args) => totalsegmentator::run(args, settings),
    }
}
