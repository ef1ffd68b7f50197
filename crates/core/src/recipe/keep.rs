//! Which checkpoint a run publishes.

use serde::{Deserialize, Serialize};

/// Which epoch's weights go into the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The one with the best validation Dice; the first of several.
    #[default]
    Best,
    /// The last one, whatever its validation Dice, as nnU-Net's final checkpoint.
    Last,
}
