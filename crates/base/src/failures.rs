//! Cases that failed, listed in `failures.jsonl`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::atomic_file::write_bytes_atomically;
use crate::text::os_text;
use crate::{Error, Result};

/// A case that failed, as a line of `failures.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    #[serde(with = "os_text::path")]
    pub input: PathBuf,
    pub reason: String,
}

/// Writes the list of failures to `path`, or removes the file if nothing failed.
pub fn write_failures(path: &Path, failures: &[Failure]) -> Result<()> {
    if failures.is_empty() {
        return match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(path, "remove")(error))
            }
            _ => Ok(()),
        };
    }
    let mut lines = String::new();
    for failure in failures {
        let line = serde_json::to_string(failure)
            .map_err(|error| Error::file(path, format!("cannot write a failure: {error}")))?;
        lines += &line;
        lines.push('\n');
    }
    write_bytes_atomically(path, lines.as_bytes())
}
