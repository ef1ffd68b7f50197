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
use ctseg_interop::totalsegmentator::{Brought, ImportTask, import_task, task_names};

#[derive(Args)]
pub struct TotalsegmentatorArgs {
    /// Folder with the weights that TotalSegmentator has downloaded (~/.totalsegmentator/nnunet/results), or with the
    /// zip files of its releases
    weights: PathBuf,
    /// What to import
    #[arg(long, default_value = "total", value_name = "NAME", long_help = tasks())]
    task: String,
    /// Folder of the model that is written; a model of several parts that is there is replaced
    #[arg(short, long, default_value = "model")]
    output: PathBuf,
}

fn tasks() -> String {
    format!("What to import, one of: {}", task_names().join(", "))
}

pub fn run(args: &TotalsegmentatorArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let computes = settings.computes()?;
    let compute = computes
        .first()
        .ok_or_else(|| Error::usage("no device to try the weights on"))?;
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
        print_out(&told(args, &brought));
    }
    Ok(Outcome::AllDone)
}

fn told(args: &TotalsegmentatorArgs, brought: &Brought) -> String {
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
        text += &format!("  task {rough} says where to look\n");
    }
    text += &format!(
        "segment with: ctseg predict VOLUME.nii.gz --model {}\n",
        args.output.shown()
    );
    text
}

fn as_json(args: &TotalsegmentatorArgs, brought: &Brought) -> serde_json::Value {
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
