//! Which checkpoint becomes the model.

use serde::{Deserialize, Serialize};

/// Which epoch's weights go into the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// The epoch with the best validation Dice; the first of several.
    #[default]
    Best,
    /// The last epoch, as nnU-Net's final checkpoint.
    Last,
}
