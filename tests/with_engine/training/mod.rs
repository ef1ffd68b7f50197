//! Training: stages, losses, resuming, sweeps, several processes. Tests that do not depend on the engine run only with
//! the embedded one.

mod case_cache;
#[cfg(not(feature = "libtorch"))]
mod cross_validation;
mod demo;
mod diagnosis;
#[cfg(feature = "mpi")]
mod distributed;
mod fine_tuning;
mod fit;
mod freezing;
mod keep;
mod loader_threads;
mod losses;
#[cfg(not(feature = "libtorch"))]
mod plan;
mod quantize;
mod resume;
#[cfg(all(unix, not(feature = "libtorch")))]
mod signals;
mod slices;
mod slices_in_context;
#[cfg(not(feature = "libtorch"))]
mod stages;
#[cfg(not(feature = "libtorch"))]
mod sweep;
mod volume_patches;
