//! How things stand with a case.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files::write_bytes_atomically;

/// How things stand with a case, as `predictions.json` says it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CaseState {
    /// Still to be done.
    #[default]
    Pending,
    /// Its label map was there already, of the same input, model and inference version.
    Kept,
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

/// A case that failed, as a line of `failures.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub input: PathBuf,
    pub reason: String,
}

/// Writes the list of failures at `path` anew; there is none where nothing failed.
pub fn write_failures(path: &Path, failures: &[Failure]) -> Result<()> {
    if failures.is_empty() {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(path, "remove the old")(error))
            }
            _ => Ok(()),
        };
    }
    let mut lines = String::new();
    for failure in failures {
        let line = serde_json::to_string(failure)
            .map_err(|error| Error::file(path, format!("cannot list a failure: {error}")))?;
        lines += &line;
        lines.push('\n');
    }
    write_bytes_atomically(path, lines.as_bytes())
}
