//! Folds that a file gives, in place of those that are dealt out: nnU-Net's `splits_final.json`, a run's own
//! `splits.json`, and the validation cases of TotalSegmentator's `meta.csv`.

mod check;
mod dataset;
mod given;

pub use given::{GivenSplits, NamedSplit, SPLITS};
