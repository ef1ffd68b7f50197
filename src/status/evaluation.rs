//! How an evaluation stands.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;

use super::state::{Cases, Kind, Standing, Status, last_written};
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};
use ctseg_core::run::state_file::RunState;

/// The state of an evaluation that goes on, or ended without figures; a case may be called `state`.
pub const STATE: &str = "evaluate.state.json";

/// What `summary.json` must say to be an evaluation's.
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

/// Whether an evaluation's files lie in this folder.
pub(super) fn is_at(path: &Path) -> bool {
    let [state, summary] = files(path);
    state.is_file() || summary.is_file() && path.join("metrics.csv").is_file()
}

/// How the evaluation in the folder at `path` stands.
pub(super) fn of(path: &Path, now: SystemTime) -> Result<Status> {
    let mut status = Status::new(path, Kind::Evaluate);
    let [state, summary] = files(path);
    status.last_sign = last_written([state.as_path(), summary.as_path()]);
    // An evaluation that is over has left none: what is there belongs to a later one.
    if let Some((state, owner)) = RunState::read(&state)? {
        status.take_state(state, owner, now);
        if status.state != Standing::Running {
            status.resume = Some("the same command".to_owned());
        }
        return Ok(status);
    }
    let text = read_text(&summary).map_err(Error::io(&summary, "read"))?;
    let found: Summary = serde_json::from_str(&text).map_err(|error| {
        Error::file(&summary, format!("is no summary of an evaluation: {error}"))
    })?;
    status.dice = found.mean.dice;
    let (failed, missing) = (found.failed.len(), found.missing_predictions.len());
    status.cases = Some(Cases {
        done: found.cases,
        failed,
        left: missing,
        ..Cases::default()
    });
    status.state = match failed {
        0 => Standing::Done,
        _ => Standing::Failed,
    };
    if missing > 0 {
        status.because = Some(format!("{missing} references without a label map"));
    }
    Ok(status)
}
