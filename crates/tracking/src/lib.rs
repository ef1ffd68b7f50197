//! Experiment tracking and monitoring: MLflow, Prometheus, system metrics.

#![forbid(unsafe_code)]

pub mod mlflow;
pub mod prometheus;
pub mod provenance;
pub mod system_metrics;
