//! Runs that were deleted on the server, and those that come back with their experiment.

use std::sync::Arc;

use super::cursor::Standing;
use super::delivery::Delivery;
use super::error::Fault;
use super::experiment::restored_on;

impl Delivery {
    /// Whether the run was deleted with its experiment, and is there again: what was refused may be sent once more.
    ///
    /// # Errors
    /// The run is not on the server any more.
    pub(super) fn is_restored(&mut self, run: &str) -> Result<bool, Fault> {
        let link = Arc::clone(&self.link);
        let api = Self::api(&link);
        let is_gone = || match api.run(run) {
            Ok(known) => Ok(known.is_deleted),
            Err(Fault::Refused(refusal)) if refusal.is_missing() => Ok(true),
            Err(fault) => Err(fault),
        };
        if !is_gone()? {
            return Ok(false);
        }
        let Standing {
            experiment,
            experiment_id,
            ..
        } = &self.standing;
        let uri = &link.server.uri;
        let experiments = &link.experiments;
        if !experiments.restored(&api, uri, experiment, experiment_id)? {
            return Err(gone_from(uri, run));
        }
        self.sent.remark(restored_on(uri, experiment));
        match is_gone()? {
            true => Err(gone_from(uri, run)),
            false => Ok(true),
        }
    }
}

fn gone_from(server: &str, run: &str) -> Fault {
    Fault::Gone(format!(
        "run {run} was deleted on {server}; restore it there, or remove tracking/delivered.json to send it as a new one"
    ))
}
