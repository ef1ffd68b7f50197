//! Label maps against references: metrics per case and structure, to `metrics.csv` and `summary.json`.

#![deny(unsafe_code)] // not forbid: ndarray's `s!` allows it for itself

pub mod calibration;
mod case_scores;
mod compare;
mod evaluation;
mod files;
pub mod paired;
pub mod scores;
mod summary;
pub mod tolerances;
mod tracking;

pub use case_scores::{CaseScores, forget_ignored};
pub use evaluation::{Evaluation, evaluate, evaluate_unless_stopped};
pub use summary::SummaryJson;
