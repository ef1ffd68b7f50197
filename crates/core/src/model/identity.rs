//! Identity of the model that made a label map.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use ctseg_base::text::os_text;

/// A model by path and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelUsed {
    #[serde(with = "os_text::path")]
    pub model: PathBuf,
    pub sha256: String,
}
