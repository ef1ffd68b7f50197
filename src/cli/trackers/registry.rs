//! The list of trackers.

use std::sync::Arc;

use super::context::{Opened, TrackerContext};
use ctseg_base::Result;
use ctseg_core::run::tracker::Tracker;
use ctseg_report::curves::Curves;

/// Each opens a tracker.
const TRACKERS: &[fn(&TrackerContext) -> Opened] = &[
    |_| Ok(Some(Arc::new(Curves::default()))),
    mlflow,
    |context| Ok(context.settings.observing.tracker()),
];

/// All trackers that are turned on.
///
/// # Errors
/// Invalid settings of a tracker.
pub(crate) fn open_trackers(context: &TrackerContext) -> Result<Vec<Arc<dyn Tracker>>> {
    let opened = TRACKERS.iter().map(|open| open(context));
    opened.filter_map(Result::transpose).collect()
}

fn mlflow(context: &TrackerContext) -> Opened {
    let Some(args) = context.mlflow else {
        return Ok(None);
    };
    let mlflow = args.tracker(context.settings, context.observer)?;
    Ok(mlflow.map(|mlflow| Arc::new(mlflow) as Arc<dyn Tracker>))
}
