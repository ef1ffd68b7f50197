//! Status of an evaluation.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use super::state::{Cases, Kind, State, Status, last_written};
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_core::run::state_file::RunState;

/// State file of an evaluation that is running or ended without results. Not `state.json`: a case may be called
/// `state`.
pub const STATE: &str = "evaluate.state.json";

/// The parts of an evaluation's `summary.json` needed here.
#[derive(Deserialize)]
struct Summary {
    mean: Mean,
    cases: usize,
    #[serde(default)]
    failed: Vec<serde_json::Value>,
    #[serde(default)]
    missing_predictions: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Mean {
    dice: Option<f64>,
}

fn files(path: &Path) -> [PathBuf; 2] {
    [path.join(STATE), path.join("summary.json")]
}

/// Whether the folder has an evaluation.
pub(super) fn is_at(path: &Path) -> bool {
    let [state, summary] = files(path);
    state.is_file() || summary.is_file() && path.join("metrics.csv").is_file()
}

/// The status of the evaluation in the folder at `path`.
pub(super) fn of(path: &Path, now: SystemTime) -> Result<Status> {
    let mut status = Status::new(path, Kind::Evaluate);
    let [state, summary] = files(path);
    status.last_sign = last_written([state.as_path(), summary.as_path()]);
    // A finished evaluation removes its state file, so that an existing one is more recent than the summary.
    if let Some((state, owner)) = RunState::read(&state)? {
        status.take_state(state, owner, now);
        if status.state != State::Running {
            status.resume = Some("the same command".to_owned());
        }
        return Ok(status);
    }
    let text = read_text(&summary).map_err(Error::io(&summary, "read"))?;
    let found: Summary = serde_json::from_str(&text)
        .map_err(|error| Error::file(&summary, format!("is not an evaluation summary: {error}")))?;
    status.dice = found.mean.dice;
    let (failed, missing) = (found.failed.len(), found.missing_predictions.len());
    status.cases = Some(Cases {
        done: found.cases,
        failed,
        left: missing,
        ..Cases::default()
    });
    status.state = match failed {
        0 => State::Done,
        _ => State::Failed,
    };
    if missing > 0 {
        status.because = Some(format!("{missing} references without a label map"));
    }
    Ok(status)
}
