//! A conversion: what it is given, and what comes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use ctseg_base::failures::Failure;
use ctseg_core::dataset::NamedSplit;

/// What becomes of voxels that several masks mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlaps {
    /// The case fails.
    #[default]
    Refuse,
    /// They are of the structure that comes last in the order of the label values.
    Last,
}

/// What is to be converted, and how.
#[derive(Debug, Clone)]
pub struct Conversion {
    /// As the user named it.
    pub source: PathBuf,
    pub overlaps: Overlaps,
    /// The folds of `splits_final.json`; without any none is written.
    pub splits: Vec<NamedSplit>,
    /// Whether a conversion that is there already, with other settings or of another dataset, is replaced.
    pub overwrite: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Converted {
    /// Cases that are there now, or that could be.
    pub training: usize,
    pub test: usize,
    /// Of these, cases that were there already.
    pub kept: usize,
    pub failures: Vec<Failure>,
    /// Remarks with the cases that they are of.
    pub notes: BTreeMap<String, Vec<String>>,
    /// Names of cases in the source and now, where these differ.
    pub renamed: Vec<(String, String)>,
    /// How many folds were written.
    pub folds: usize,
}
