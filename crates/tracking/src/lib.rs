//! What the user sees and what other programs hear.

pub mod mlflow;
pub mod prometheus;
pub mod provenance;
pub mod system_metrics;
