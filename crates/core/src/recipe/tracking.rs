//! What trackers receive besides metrics: `[tracking]` of a recipe.

use serde::{Deserialize, Serialize};

/// Files of a training run to upload to a tracking server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrackingConfig {
    /// The checkpoint of each fold to upload after training. The model is always uploaded; `last` includes the
    /// optimiser state and is three times as large.
    pub checkpoints: TrackedCheckpoints,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackedCheckpoints {
    #[default]
    None,
    Best,
    Last,
}
