//! The metrics of one structure in one case. To add one: a file here (or a constant in one of them), and its line in
//! `registry`; its definition belongs in `docs/metrics.md`.

mod kind;
mod lesions;
mod overlap;
mod registry;
mod surface;
mod volume;

pub use kind::{Better, Masks, Metric, StructurePair};
pub use registry::{METRICS, metric_by_name};
