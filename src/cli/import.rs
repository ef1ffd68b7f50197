//! `ctseg import`: models of other programs.

mod nnunet;

use clap::{Args, Subcommand};

use super::{Outcome, Settings};

#[derive(Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    from: From,
}

#[derive(Subcommand)]
enum From {
    /// A model of nnU-Net 2: a results folder, a model folder in it, or a zip of nnUNetv2_export_model_to_zip
    Nnunet(nnunet::NnunetArgs),
}

pub fn run(args: &ImportArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    match &args.from {
        From::Nnunet(args) => nnunet::run(args, settings),
    }
}
