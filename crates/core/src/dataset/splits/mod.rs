//! Predefined folds from files: nnU-Net's `splits_final.json`, a run's own `splits.json`, and the validation
//! cases of TotalSegmentator's `meta.csv`.

mod check;
mod dataset;
mod predefined;

pub use predefined::{NamedSplit, PredefinedSplits, SPLITS};
