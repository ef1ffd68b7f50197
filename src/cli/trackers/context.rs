//! What trackers are opened with.

use std::sync::Arc;

use crate::cli::args::tracking::MlflowArgs;
use crate::cli::settings::Settings;
use ctseg_base::Result;
use ctseg_base::progress::Observer;
use ctseg_core::run::tracker::Tracker;

/// The command that trains.
pub(crate) struct TrackerContext<'a> {
    /// None if the command has no such options.
    pub mlflow: Option<&'a MlflowArgs>,
    pub settings: &'a Settings,
    pub observer: &'a Arc<dyn Observer>,
}

/// An open tracker; none if it is turned off.
pub(super) type Opened = Result<Option<Arc<dyn Tracker>>>;
