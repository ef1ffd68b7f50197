//! `ctseg export nnunet`: an nnU-Net results folder.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::text::printable::Shown;
use ctseg_interop::nnunet::{DatasetName, export_model};

#[derive(Args)]
pub struct NnunetArgs {
    /// Model folder
    model: PathBuf,
    /// nnU-Net results folder ($nnUNet_results); Dataset<ID>_<NAME> is created in it
    #[arg(short, long)]
    output: PathBuf,
    /// Dataset ID
    #[arg(long, default_value_t = 900)]
    id: u16,
    /// Dataset name
    #[arg(long, default_value = "ctseg")]
    name: String,
}

pub fn run(args: &NnunetArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let dataset = DatasetName::new(args.id, &args.name)?;
    let folders = export_model(&args.model, &args.output, &dataset)?;
    if settings.json {
        print_out(&format!("{:#}\n", json!({"models": folders})));
        return Ok(Outcome::AllDone);
    }
    for folder in &folders {
        print_out(&format!("{}\n", folder.shown()));
    }
    if let Some(last) = folders.last() {
        print_out(&format!(
            "predict with: nnUNetv2_predict_from_modelfolder -m {} -i IMAGES -o OUT{}\n",
            last.shown(),
            if folders.len() > 1 {
                " -prev_stage_predictions FOLDER (of the first model)"
            } else {
                ""
            }
        ));
    }
    Ok(Outcome::AllDone)
}
