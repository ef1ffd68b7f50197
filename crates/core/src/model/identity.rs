//! Which model, by its hash, made a label map.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One of several models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsed {
    pub model: PathBuf,
    pub sha256: String,
}
