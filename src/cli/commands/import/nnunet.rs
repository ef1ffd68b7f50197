//! `ctseg import nnunet`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::words::{counted, listed};
use ctseg_base::{Error, Result};
use ctseg_core::recipe::Axes;
use ctseg_interop::nnunet::{ImportOptions, Imported, ImportedStage, import_model};

#[derive(Args)]
pub struct NnunetArgs {
    /// Results folder, model folder (…/nnUNetTrainer__nnUNetPlans__3d_fullres) or zip file
    source: PathBuf,
    /// Model folder to create; must not exist
    #[arg(short, long, default_value = "model")]
    output: PathBuf,
    /// Folds, such as 0,1,2 or all; their logits are averaged [default: all numbered folds]
    #[arg(long, value_delimiter = ',', value_name = "FOLDS")]
    fold: Vec<String>,
    /// Configuration, if there are several: 2d, 3d_lowres, 3d_fullres, 3d_cascade_fullres
    #[arg(long, value_name = "NAME")]
    configuration: Option<String>,
    /// File name of the checkpoints [default: checkpoint_final.pth]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<String>,
    /// Model folder of a cascade's first stage [default: the one next to it]
    #[arg(long, value_name = "FOLDER")]
    previous: Option<PathBuf>,
    /// Orientation of the network's input: stored or ras [default: that of the plans' reader]
    #[arg(long, value_parser = parse_axes)]
    axes: Option<Axes>,
    /// Disable test-time augmentation (mirroring), as nnUNetv2_predict --disable_tta
    #[arg(long)]
    no_mirroring: bool,
}

fn parse_axes(text: &str) -> std::result::Result<Axes, String> {
    match text {
        "stored" => Ok(Axes::Stored),
        "ras" => Ok(Axes::Ras),
        _ => Err("expected stored or ras".to_owned()),
    }
}

pub fn run(args: &NnunetArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let options = ImportOptions {
        folds: folds(&args.fold)?,
        checkpoint: args.checkpoint.clone(),
        configuration: args.configuration.clone(),
        axes: args.axes,
        unmirrored: args.no_mirroring,
        previous: args.previous.clone(),
        ..ImportOptions::default()
    };
    let computes = settings.computes()?;
    let compute = computes
        .first()
        .ok_or_else(|| Error::usage("no device to test the weights on"))?;
    let imported = import_model(&args.source, &args.output, &options, compute)?;
    let observer = settings.observer();
    for note in &imported.notes {
        observer.warn(note);
    }
    if settings.json {
        print_out(&format!("{:#}\n", as_json(args, &imported)));
    } else {
        print_out(&as_text(args, &imported));
    }
    Ok(Outcome::AllDone)
}

/// Fold numbers, or `all`.
fn folds(named: &[String]) -> Result<Vec<String>> {
    let names = named.iter().map(|name| name.trim());
    names
        .map(
            |name| match name == "all" || name.parse::<usize>().is_ok() {
                true => Ok(name.to_owned()),
                false => Err(Error::usage(format!(
                    "--fold {name}: expected numbers such as 0,1,2, or all"
                ))),
            },
        )
        .collect()
}

fn as_text(args: &NnunetArgs, imported: &Imported) -> String {
    let mut text = format!(
        "imported {} into {}\n",
        args.source.shown(),
        args.output.shown()
    );
    for stage in &imported.stages {
        text += &line(stage);
    }
    let names: Vec<&str> = imported
        .structures
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    text += &format!(
        "  {}: {}\n",
        counted(names.len(), "structure"),
        listed(&names)
    );
    text += &format!(
        "segment with: ctseg predict VOLUME.nii.gz --model {}\n",
        args.output.shown()
    );
    text
}

fn line(stage: &ImportedStage) -> String {
    let recipe = &stage.recipe;
    let views = recipe
        .nnunet
        .as_ref()
        .map_or(1, |nnunet| 1usize << nnunet.mirror_axes.len());
    format!(
        "  {}: {}, {} weights, folds {}, {}, {}\n",
        stage.configuration.shown(),
        recipe.network.name(),
        millions(stage.parameters),
        stage.folds.join(" ").shown(),
        match views {
            1 => "no TTA".to_owned(),
            views => format!("TTA with {views} views"),
        },
        stage.trainer.shown()
    )
}

fn millions(count: usize) -> String {
    match count {
        0..100_000 => count.to_string(),
        _ => format!("{:.1} million", count as f64 / 1e6),
    }
}

fn as_json(args: &NnunetArgs, imported: &Imported) -> serde_json::Value {
    let stages = imported.stages.iter().map(|stage| {
        json!({
            "configuration": stage.configuration,
            "trainer": stage.trainer,
            "folds": stage.folds,
            "network": stage.recipe.network.name(),
            "weights": stage.parameters,
        })
    });
    let structures = imported.structures.iter();
    let structures = structures.map(|s| (s.value.to_string(), json!(s.name)));
    json!({
        "model": args.output,
        "stages": stages.collect::<Vec<_>>(),
        "structures": structures.collect::<serde_json::Map<_, _>>(),
        "notes": imported.notes,
    })
}
