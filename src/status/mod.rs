//! The state of trainings, sweeps, predictions and evaluations, from their files alone. Nothing is written: read access
//! is enough.

mod batch;
mod batch_files;
mod evaluation;
mod state;
mod sweep;
mod training;

pub use evaluation::STATE as EVALUATION;
pub use state::{Cases, Epochs, Kind, State, Status, Trials, span};

use std::path::Path;
use std::time::SystemTime;

use ctseg_base::{Error, Result};
use ctseg_train::sweep as sweeps;

/// Depth of the search for runs: `runs/<job>/<run>`.
const DEPTH: usize = 3;

/// The status of everything at `path`, sorted by path. A folder may contain both label maps and their evaluation.
///
/// # Errors
/// Nothing is found, or the folder cannot be read. An unreadable run does not affect the others.
pub fn of(path: &Path, now: SystemTime) -> Result<Vec<Status>> {
    let mut found = Vec::new();
    search(path, DEPTH, now, &mut found)?;
    if found.is_empty() {
        return Err(Error::file(
            path,
            "contains no run, sweep, predictions or evaluation; expected one of these, or a folder of them",
        ));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn search(path: &Path, depth: usize, now: SystemTime, found: &mut Vec<Status>) -> Result<()> {
    let before = found.len();
    let readable = |kind: Kind, status: Result<Status>| {
        status.unwrap_or_else(|error| Status::unreadable(path, kind, &error))
    };
    if path.join(sweeps::FILE).is_file() {
        found.push(readable(Kind::Sweep, sweep::of(path, now)));
    } else if path.join("run.toml").is_file() {
        found.push(readable(Kind::Fit, training::of(path, now)));
    }
    let batches = batch_files::manifests(path)?;
    if !batches.is_empty() {
        found.push(readable(Kind::Predict, batch::of(path, &batches, now)));
    }
    if evaluation::is_at(path) {
        found.push(readable(Kind::Evaluate, evaluation::of(path, now)));
    }
    // Do not search inside a run.
    if depth == 0 || found.len() > before {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
    for entry in entries {
        let entry = entry.map_err(Error::io(path, "read the folder"))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Skip unreadable subfolders, which may be another user's.
            let _ = search(&entry.path(), depth - 1, now, found);
        }
    }
    Ok(())
}
