//! Training: stages, losses, resuming, sweeps, several processes. What does not depend on the engine is tested once, with
//! the embedded one alone.

mod calibrate;
mod case_cache;
#[cfg(not(feature = "libtorch"))]
mod cross_validation;
mod demo;
mod diagnosis;
mod fine_tuning;
mod fit;
mod freezing;
mod keep;
mod loader_threads;
mod losses;
#[cfg(not(feature = "libtorch"))]
mod plan;
mod resume;
#[cfg(all(unix, not(feature = "libtorch")))]
mod signals;
mod slices;
mod slices_in_context;
#[cfg(not(feature = "libtorch"))]
mod stages;
#[cfg(not(feature = "libtorch"))]
mod sweep;
#[cfg(feature = "mpi")]
mod together;
mod volume_patches;
