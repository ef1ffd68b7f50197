//! `ctseg sync`: upload pending runs to MLflow.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use crate::cli::args::tracking::{ArtifactArgs, warn_of_risks};
use crate::cli::outcome::Outcome;
use crate::cli::print::print_out;
use crate::cli::settings::Settings;
use ctseg_base::text::table::table;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_tracking::mlflow::delivery::Link;
use ctseg_tracking::mlflow::settings::{Server, process_environment};
use ctseg_tracking::mlflow::sync;
use ctseg_tracking::mlflow::sync::{SyncResult, runs_at, sync};

#[derive(Args)]
pub struct SyncArgs {
    /// Run folders, or folders that contain them [default: runs]
    #[arg(value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// MLflow experiment for runs that have none [default: ctseg]
    #[arg(long, env = "MLFLOW_EXPERIMENT_NAME", value_name = "NAME")]
    experiment: Option<String>,
    #[command(flatten)]
    artifacts: ArtifactArgs,
}

pub fn run(args: SyncArgs, settings: &Settings) -> anyhow::Result<Outcome> {
    let observer = settings.observer();
    let named = args.experiment.as_deref();
    let preferences = args.artifacts.preferences(settings, named);
    let server = Server::find(&preferences, &process_environment)?.ok_or_else(|| {
        Error::usage(
            "no MLflow server configured; set MLFLOW_TRACKING_URI, or uri under [mlflow] in ctseg.toml",
        )
    })?;
    let runs = found(args.runs, settings)?;
    warn_of_risks(&server, observer.as_ref());
    let link = Arc::new(Link::open(server)?);
    let mut synced: Vec<SyncResult> = Vec::new();
    for run in &runs {
        let one = sync(&link, run, observer.as_ref());
        for note in &one.sent.notes {
            observer.warn(&format!("{}: {note}", run.display()));
        }
        let stop = matches!(one.outcome, sync::Outcome::ServerFailed(_));
        synced.push(one);
        if stop {
            break;
        }
    }
    let untried = runs.len() - synced.len();
    if settings.json {
        let rows: Vec<_> = synced.iter().map(as_json).collect();
        let result = json!({"server": link.server.uri, "runs": rows, "not_tried": untried});
        print_out(&format!("{result:#}\n"));
    } else {
        print_out(&as_table(&synced));
        if untried > 0 {
            print_out(&format!(
                "  not attempted: {}\n",
                counted(untried, "more run")
            ));
        }
    }
    Ok(outcome(&synced))
}

/// The given runs, or all runs of the run folder.
fn found(named: Vec<PathBuf>, settings: &Settings) -> Result<Vec<PathBuf>> {
    let places = match named.is_empty() {
        true => vec![settings.config.runs_or(None)],
        false => named,
    };
    let mut runs = Vec::new();
    for place in &places {
        let here = runs_at(place)?;
        if here.is_empty() {
            return Err(Error::file(
                place,
                "contains no tracked run (no tracking/events.jsonl); expected a run folder or a folder of runs",
            ));
        }
        runs.extend(
            here.into_iter()
                .filter(|run| !runs.contains(run))
                .collect::<Vec<_>>(),
        );
    }
    Ok(runs)
}

fn outcome(synced: &[SyncResult]) -> Outcome {
    let failed = |one: &&SyncResult| {
        matches!(
            one.outcome,
            sync::Outcome::Failed(_) | sync::Outcome::ServerFailed(_)
        )
    };
    match synced.iter().filter(failed).count() {
        0 => Outcome::AllDone,
        all if all == synced.len() => Outcome::NothingDone,
        _ => Outcome::SomeFailed,
    }
}

const FAILED: &str = "failed: ";

fn words(outcome: &sync::Outcome) -> String {
    match outcome {
        sync::Outcome::All => "complete".to_owned(),
        sync::Outcome::Busy => "another process is uploading it".to_owned(),
        sync::Outcome::Failed(why) | sync::Outcome::ServerFailed(why) => format!("{FAILED}{why}"),
    }
}

fn as_json(one: &SyncResult) -> serde_json::Value {
    json!({
        "run": one.run, "page": one.url, "metrics": one.sent.metrics, "files": one.sent.files,
        "bytes": one.sent.bytes, "left_out": one.sent.left_out, "notes": one.sent.notes,
        "complete": one.outcome == sync::Outcome::All, "state": words(&one.outcome),
    })
}

fn as_table(synced: &[SyncResult]) -> String {
    let header = ["run", "metric points", "files", "MB", "skipped", "state"];
    let mut shown = BTreeSet::new();
    let cells: Vec<Vec<String>> = synced
        .iter()
        .map(|one| {
            let state = match words(&one.outcome) {
                failed if failed.starts_with(FAILED) && !shown.insert(failed.clone()) => {
                    format!("{FAILED}for the same reason")
                }
                state => state,
            };
            vec![
                one.run.display().to_string(),
                one.sent.metrics.to_string(),
                one.sent.files.to_string(),
                format!("{:.1}", one.sent.bytes as f64 / 1e6),
                one.sent.left_out.to_string(),
                state,
            ]
        })
        .collect();
    table(&header, &cells)
}
