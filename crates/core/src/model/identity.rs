//! Which model, by its hash, made a label map.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One of several models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsed {
    pub model: PathBuf,
    pub sha256: String,
}
