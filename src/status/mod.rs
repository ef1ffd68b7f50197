//! What is running, done, interrupted or failed, from files alone: of trainings, sweeps, batches of volumes and
//! evaluations. Nothing is written, so that anybody may look who can read the folders.

mod batch;
mod batch_files;
mod evaluation;
mod state;
mod sweep;
mod training;

pub use evaluation::STATE as EVALUATION;
pub use state::{Cases, Epochs, Kind, Standing, Status, Trials, span};

use std::path::Path;
use std::time::SystemTime;

use ctseg_base::{Error, Result};
use ctseg_train::sweep as sweeps;

/// How deep runs are looked for: `runs/<job>/<run>`.
const DEPTH: usize = 3;

/// How everything stands that lies at `path`, at the time `now`; by path. A folder may hold two things: label maps
/// and their evaluation.
///
/// # Errors
/// There is nothing there, or the folder cannot be read. What cannot be read of one run costs no other.
pub fn of(path: &Path, now: SystemTime) -> Result<Vec<Status>> {
    let mut found = Vec::new();
    search(path, DEPTH, now, &mut found)?;
    if found.is_empty() {
        return Err(Error::file(
            path,
            "holds no run, sweep, predictions or evaluation; expected one of these, or a folder of them",
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
    // What lies in a run is its own, not another run.
    if depth == 0 || found.len() > before {
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(Error::io(path, "read the folder"))?;
    for entry in entries {
        let entry = entry.map_err(Error::io(path, "read the folder"))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // What lies deeper and may not be read is somebody else's.
            let _ = search(&entry.path(), depth - 1, now, found);
        }
    }
    Ok(())
}
