//! `ctseg import`: one file per source program.

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
    /// Import an nnU-Net 2 model: a results folder, a model folder in it, or a zip of nnUNetv2_export_model_to_zip
    Nnunet(nnunet::NnunetArgs),
    /// Import a TotalSegmentator task from its downloaded weights, as a multi-part model
    Totalsegmentator(totalsegmentator::TotalsegmentatorArgs),
}

pub fn run(args: &ImportArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    match &args.from {
        From::Nnunet(args) => nnunet::run(args, settings),
        From::Totalsegmentator(args) => totalsegmentator::run(args, settings),
    }
}
