//! Options and result of a conversion.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use ctseg_base::failures::Failure;
use ctseg_core::dataset::NamedSplit;

/// How voxels marked by several masks are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlaps {
    /// The case fails.
    #[default]
    Refuse,
    /// The structure with the highest label value wins.
    Last,
}

/// Options of a conversion.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// As given by the user.
    pub source: PathBuf,
    pub overlaps: Overlaps,
    /// The folds of `splits_final.json`, which is not written if empty.
    pub splits: Vec<NamedSplit>,
    /// Replace an existing conversion with other settings or of another dataset.
    pub overwrite: bool,
}

/// Result of a conversion.
#[derive(Debug, Clone, Default)]
pub struct Converted {
    /// Training cases that were converted, or passed the check.
    pub training: usize,
    pub test: usize,
    /// Of these, cases kept from an earlier run.
    pub kept: usize,
    pub failures: Vec<Failure>,
    /// Notes and the cases they apply to.
    pub notes: BTreeMap<String, Vec<String>>,
    /// Source and converted names of cases that were renamed.
    pub renamed: Vec<(String, String)>,
    /// Number of folds written.
    pub folds: usize,
}
