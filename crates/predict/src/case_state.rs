//! The state of a case.

use serde::{Deserialize, Serialize};

/// The state of a case in `predictions.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CaseState {
    /// Not done yet.
    #[default]
    Pending,
    /// Its label map already existed: from the same input, model and inference version, or edited by the user.
    Kept {
        /// Notes about the existing files.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    Done {
        seconds: f64,
        /// Deviations from normal processing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        notes: Vec<String>,
    },
    Failed {
        reason: String,
    },
}
