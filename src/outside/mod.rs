//! What the user sees and what other programs hear.

pub mod curves;
pub mod mlflow;
pub mod origin;
pub mod pictures;
pub mod progress;
pub mod reliability;
pub mod report;
pub mod slurm;
pub mod system_metrics;
