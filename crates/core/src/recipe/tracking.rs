//! What trackers are given of a run beside its numbers: `[tracking]` of a recipe.

use serde::{Deserialize, Serialize};

/// What a tracking server keeps of a training's files.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrackingConfig {
    /// The checkpoint of each fold that is sent when the fold is trained. The model is sent in any case; `last`
    /// holds what the optimiser remembers too, and is three times as large.
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
