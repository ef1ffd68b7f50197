//! What the user sees and what other programs hear.

pub mod curves;
pub mod doctor;
pub mod http;
pub mod json_log;
pub mod metrics_file;
pub mod mlflow;
pub mod origin;
pub mod pictures;
pub mod progress;
pub mod reliability;
pub mod report;
pub mod slurm;
pub mod system_metrics;
