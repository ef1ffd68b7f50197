//! `ctseg import totalsegmentator`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::Error;
use ctseg_base::text::printable::Shown;
use ctseg_base::text::words::counted;
use ctseg_interop::totalsegmentator::{ImportTask, ImportedTask, import_task, task_names};

#[derive(Args)]
pub struct TotalsegmentatorArgs {
    /// Folder of TotalSegmentator's downloaded weights (~/.totalsegmentator/nnunet/results), or of the zip files of its
    /// releases
    weights: PathBuf,
    /// Task to import
    #[arg(long, default_value = "total", value_name = "NAME", long_help = tasks())]
    task: String,
    /// Model folder to create; an existing multi-part model is replaced
    #[arg(short, long, default_value = "model")]
    output: PathBuf,
}

fn tasks() -> String {
    format!("Task to import, one of: {}", task_names().join(", "))
}

pub fn run(args: &TotalsegmentatorArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let computes = settings.computes()?;
    let compute = computes
        .first()
        .ok_or_else(|| Error::usage("no device to test the weights on"))?;
    let observer = settings.observer();
    let job = ImportTask {
        weights: &args.weights,
        task: &args.task,
        target: &args.output,
        compute,
    };
    let brought = import_task(&job, observer.as_ref())?;
    for note in &brought.notes {
        observer.warn(note);
    }
    if settings.json {
        print_out(&format!("{:#}\n", as_json(args, &brought)));
    } else {
        print_out(&as_text(args, &brought));
    }
    Ok(Outcome::AllDone)
}

fn as_text(args: &TotalsegmentatorArgs, brought: &ImportedTask) -> String {
    let mut text = format!(
        "imported task {} of {} into {}\n",
        args.task,
        counted(brought.structures, "structure"),
        args.output.shown()
    );
    for (folder, _, imported) in &brought.parts {
        for stage in &imported.stages {
            let spacing = stage.recipe.spacing_mm.map(|mm| format!("{mm:.2}"));
            text += &format!(
                "  {}: {}, {} mm, {} weights, folds {}\n",
                folder.shown(),
                stage.recipe.network.name(),
                spacing.join(" × "),
                stage.parameters,
                stage.folds.join(" ").shown()
            );
        }
    }
    if let Some(rough) = &brought.rough {
        text += &format!("  task {rough} locates the structures\n");
    }
    text += &format!(
        "segment with: ctseg predict VOLUME.nii.gz --model {}\n",
        args.output.shown()
    );
    text
}

fn as_json(args: &TotalsegmentatorArgs, brought: &ImportedTask) -> serde_json::Value {
    let parts = brought.parts.iter().map(|(folder, source, imported)| {
        let weights: usize = imported.stages.iter().map(|stage| stage.parameters).sum();
        json!({"part": folder, "from": source, "weights": weights})
    });
    json!({
        "model": args.output,
        "task": args.task,
        "structures": brought.structures,
        "parts": parts.collect::<Vec<_>>(),
        "rough": brought.rough,
        "notes": brought.notes,
    })
}
