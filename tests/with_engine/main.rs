//! End-to-end tests that depend on the engine: they run once for each engine.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/learners.rs"]
mod learners;

mod attention;
mod batch;
mod calibrate;
mod case_cache;
mod cross_validation;
#[cfg(all(feature = "libtorch", target_os = "linux", target_arch = "x86_64"))]
mod cuda_library;
mod demo;
mod diagnosis;
mod doctor;
mod ensemble;
mod entropy;
mod export;
mod fine_tuning;
mod fit;
mod freezing;
mod keep;
mod loader_threads;
mod losses;
mod max_ram;
mod nnunet;
mod nnunet_export;
mod nnunet_import;
mod outputs;
mod overlapping;
mod parted;
mod plan;
mod planes;
mod predict;
mod resume;
mod sharing;
#[cfg(unix)]
mod signals;
mod slices;
mod slices_in_context;
mod stages;
mod sweep;
#[cfg(feature = "mpi")]
mod together;
mod totalsegmentator;
mod volume_patches;
