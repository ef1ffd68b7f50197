//! Training: stages, losses, resuming, sweeps, several processes.

mod calibrate;
mod case_cache;
mod cross_validation;
mod demo;
mod diagnosis;
mod fine_tuning;
mod fit;
mod freezing;
mod keep;
mod loader_threads;
mod losses;
mod plan;
mod resume;
#[cfg(unix)]
mod signals;
mod slices;
mod slices_in_context;
mod stages;
mod sweep;
#[cfg(feature = "mpi")]
mod together;
mod volume_patches;
