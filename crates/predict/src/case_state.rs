//! How things stand with a case.

use serde::{Deserialize, Serialize};

/// How things stand with a case, as `predictions.json` says it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CaseState {
    /// Still to be done.
    #[default]
    Pending,
    /// Its label map was there already, of the same input, model and inference version, or changed by hand.
    Kept {
        /// What was found there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    Done {
        seconds: f64,
        /// Deviations from the normal way.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    Failed {
        reason: String,
    },
}
