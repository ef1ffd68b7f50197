//! `ctseg predict`: segment volumes.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Outcome, Settings, stop_on_signals};
use crate::outside::progress;
use crate::pipeline::predict::{PredictJob, PredictSummary, expand_inputs, plan_outputs, predict};

#[derive(Args)]
pub struct PredictArgs {
    /// Volumes: files, folders, patterns, or @list with one path per line
    #[arg(required = true)]
    inputs: Vec<String>,
    /// Folder for the label maps, or the name of one label map
    #[arg(short, long, default_value = "predictions")]
    output: PathBuf,
    /// Model folder [default: model]
    #[arg(long, env = "CTSEG_MODEL")]
    model: Option<PathBuf>,
}

pub fn run(args: PredictArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = progress::for_stderr();
    let stop = stop_on_signals()?;
    let inputs = expand_inputs(&args.inputs)?;
    let (cases, folder) = plan_outputs(&inputs, &args.output)?;
    let job = PredictJob {
        cases,
        folder,
        model: settings.config.model_or(args.model),
        device: settings.device,
        stop: &stop,
    };
    let summary = predict(&job, observer.as_ref())?;
    print_summary(&summary, &job, settings.json);
    Ok(outcome(&summary))
}

fn outcome(summary: &PredictSummary) -> Outcome {
    if summary.interrupted {
        Outcome::Interrupted
    } else if summary.failures.is_empty() {
        Outcome::AllDone
    } else if summary.written.is_empty() {
        Outcome::NothingDone
    } else {
        Outcome::SomeFailed
    }
}

pub fn print_summary(summary: &PredictSummary, job: &PredictJob, as_json: bool) {
    if as_json {
        let notes: Vec<_> = summary
            .notes
            .iter()
            .map(|(input, note)| json!({"input": input, "note": note}))
            .collect();
        println!(
            "{:#}",
            json!({"written": summary.written, "failed": summary.failures, "notes": notes, "seconds": summary.seconds, "interrupted": summary.interrupted})
        );
        return;
    }
    println!(
        "{} of {} volumes segmented in {:.1} s, into {}",
        summary.written.len(),
        job.cases.len(),
        summary.seconds,
        job.folder.display()
    );
    for (input, note) in &summary.notes {
        println!("  note    {}: {note}", input.display());
    }
    for failure in &summary.failures {
        println!("  failed  {}", failure.reason);
    }
    if !summary.failures.is_empty() {
        println!("  list    {}", job.folder.join("failures.jsonl").display());
    }
    if summary.interrupted {
        println!("  stopped before the end; the same command segments all again");
    }
}
