//! What the check of a dataset finds in its cases.

use std::fmt;
use std::path::PathBuf;

/// How much of the images [`Dataset::check`](crate::dataset::Dataset::check) reads; label maps are always read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckDepth {
    /// Only the images' headers.
    Headers,
    /// Every voxel: finds truncated images too, and takes about as long as an epoch's reading.
    Voxels,
}

/// A fault that must be fixed before the dataset can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseProblem {
    pub case: String,
    pub file: PathBuf,
    pub problem: String,
}

/// Something worth knowing that stops nothing; `case` is `None` when it concerns the whole dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseNote {
    pub case: Option<String>,
    pub note: String,
}

impl fmt::Display for CaseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}: {}",
            self.case,
            self.file.display(),
            self.problem
        )
    }
}

impl fmt::Display for CaseNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.case {
            Some(case) => write!(f, "{case}: {}", self.note),
            None => f.write_str(&self.note),
        }
    }
}
