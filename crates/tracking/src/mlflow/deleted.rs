//! Runs that were deleted on the server, and restored with their experiment.

use std::sync::Arc;

use super::cursor::Cursor;
use super::delivery::Delivery;
use super::error::Fault;
use super::experiment::restored_note;

impl Delivery {
    /// Restores a run that was deleted with its experiment. Returns whether it was restored, so that a refused request
    /// can be repeated.
    ///
    /// # Errors
    /// The run is deleted and cannot be restored.
    pub(super) fn restore_run(&mut self, run: &str) -> Result<bool, Fault> {
        let link = Arc::clone(&self.link);
        let api = Self::api(&link);
        let is_deleted = || match api.run(run) {
            Ok(known) => Ok(known.is_deleted),
            Err(Fault::Refused(refusal)) if refusal.is_missing() => Ok(true),
            Err(fault) => Err(fault),
        };
        if !is_deleted()? {
            return Ok(false);
        }
        let Cursor {
            experiment,
            experiment_id,
            ..
        } = &self.cursor;
        let uri = &link.server.uri;
        let experiments = &link.experiments;
        if !experiments.restore_if_deleted(&api, uri, experiment, experiment_id)? {
            return Err(run_deleted(uri, run));
        }
        self.sent.note(restored_note(uri, experiment));
        match is_deleted()? {
            true => Err(run_deleted(uri, run)),
            false => Ok(true),
        }
    }
}

fn run_deleted(server: &str, run: &str) -> Fault {
    Fault::RunDeleted(format!(
        "run {run} was deleted on {server}; restore it there, or delete tracking/delivered.json to upload it as a new run"
    ))
}
