//! Compares label maps with references: metrics per case and structure, written to `metrics.csv` and `summary.json`.

#![deny(unsafe_code)] // not forbid: ndarray's `s!` allows it for itself

pub mod calibration;
mod case_scores;
mod compare;
mod evaluation;
mod files;
pub mod metrics;
pub mod paired;
mod scores;
mod summary;
pub mod tolerances;
mod tracking;

pub use case_scores::{CaseScores, mask_ignored};
pub use evaluation::{Evaluation, evaluate, evaluate_cancellable};
pub use summary::SummaryJson;
