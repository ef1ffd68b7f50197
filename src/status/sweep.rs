//! Status of a sweep.

use std::path::Path;
use std::time::SystemTime;

use super::state::{Kind, State, Status, Trials, last_written};
use ctseg_base::text::file::read_text;
use ctseg_base::text::words::counted;
use ctseg_base::{Error, Result};
use ctseg_core::run::state_file;
use ctseg_core::run::state_file::RunState;
use ctseg_train::sweep::SweepSettings;
use ctseg_train::sweep::table::TrialRow;

const TABLE: &str = "sweep.json";

/// The status of the sweep in the folder at `path`.
pub(super) fn of(path: &Path, now: SystemTime) -> Result<Status> {
    let mut status = Status::new(path, Kind::Sweep);
    let settings = SweepSettings::read(path)?;
    let rows = rows(&path.join(TABLE))?;
    let state = path.join(state_file::FILE);
    status.last_sign = last_written([state.as_path(), path.join(TABLE).as_path()]);
    match RunState::read(&state)? {
        Some((state, owner)) => status.take_state(state, owner, now),
        None => {
            let why = "written by an early version of ctseg, which did not record the process";
            status.because = Some(why.to_owned());
        }
    }
    let failed = rows.iter().filter(|row| row.failure.is_some()).count();
    let best = rows.iter().find(|row| row.best_dice.is_some());
    status.dice = best.and_then(|row| row.best_dice);
    status.trials = Some(Trials {
        all: settings.trials()?,
        started: rows.iter().filter(|row| row.rungs > 0).count(),
        failed,
        best: best.map(|row| row.settings.join(" ")),
    });
    if status.state == State::Done && failed > 0 {
        status.state = State::Failed;
        status.because = Some(format!(
            "{} failed, see table.txt",
            counted(failed, "trial")
        ));
    } else if matches!(status.state, State::Interrupted | State::Failed) {
        status.resume = Some(format!("ctseg sweep --resume {}", path.display()));
    }
    Ok(status)
}

/// The sweep's table; empty until the first trial has finished a rung.
fn rows(path: &Path) -> Result<Vec<TrialRow>> {
    match read_text(path) {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| Error::file(path, format!("is not a sweep table: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(path, "read")(error)),
    }
}
