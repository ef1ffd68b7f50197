//! End-to-end tests that give the same result on every engine: they run once, on the embedded one.

#[path = "../../tests/common/mod.rs"]
mod common;

mod augmentation_hounsfield;
#[cfg(unix)]
mod compat;
mod containers;
mod convert;
#[cfg(target_os = "linux")]
mod evaluate;
mod examples;
#[cfg(target_os = "linux")]
mod faults;
mod fingerprint;
#[cfg(target_os = "linux")]
mod fuzz_corpus;
mod grids;
mod help;
#[cfg(unix)]
mod hostile;
mod hostile_models;
mod inspect;
mod logs;
mod messages;
mod metrics_file;
mod mlflow;
mod mlflow_faults;
mod normalisation;
mod not_hounsfield;
mod preprocessed_cache;
mod recorded;
mod reliability;
mod report;
mod runs;
mod sampling;
#[cfg(unix)]
mod setup_libtorch;
#[cfg(unix)]
mod slurm;
mod staging;
mod status;
#[cfg(unix)]
mod submit;
mod torch_file;
mod tracking;
