//! Folds read from a file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use ctseg_base::atomic_file::write_bytes_atomically;
use ctseg_base::text::file::read_text;
use ctseg_base::{Error, Result};

/// nnU-Net's folds, in the dataset's folder or in that of the preprocessed dataset.
pub const SPLITS: &str = "splits_final.json";

/// The folds of a run or sweep, in its folder, in nnU-Net's format.
const OWN_SPLITS: &str = "splits.json";

const REMEDY: &str = "correct the file, or remove it to let ctseg split the cases";

/// One fold as case ids, as in nnU-Net's `splits_final.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedSplit {
    pub train: Vec<String>,
    #[serde(rename = "val")]
    pub validation: Vec<String>,
}

/// Folds and the file they were read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredefinedSplits {
    pub file: PathBuf,
    pub folds: Vec<NamedSplit>,
}

impl PredefinedSplits {
    /// The folds of the run or sweep in `folder`; none if an early version started it, which did not store them.
    ///
    /// # Errors
    /// A file that cannot be read or parsed.
    pub fn of_run(folder: &Path) -> Result<Option<Self>> {
        let file = folder.join(OWN_SPLITS);
        file.is_file().then(|| Self::read(file)).transpose()
    }

    /// Stores the folds of a run or sweep in its folder.
    pub fn store(folder: &Path, folds: &[NamedSplit]) -> Result<()> {
        let file = folder.join(OWN_SPLITS);
        let text = serde_json::to_string(folds)
            .map_err(|error| Error::file(&file, format!("cannot store the folds: {error}")))?;
        write_bytes_atomically(&file, (text + "\n").as_bytes())
    }

    pub(super) fn read(file: PathBuf) -> Result<Self> {
        let text = read_text(&file).map_err(Error::io(&file, "read"))?;
        let folds = serde_json::from_str(&text).map_err(|error| {
            Error::file(
                &file,
                format!(
                    "not in nnU-Net's splits format ({error}); expected [{{\"train\": [ids], \"val\": [ids]}}, …]: {REMEDY}"
                ),
            )
        })?;
        Ok(Self { file, folds })
    }

    pub(super) fn error(&self, problem: &str) -> Error {
        Error::file(&self.file, format!("{problem}; {REMEDY}"))
    }
}
