//! Prediction: batches, outputs, memory, devices.

mod attention;
mod batch;
#[cfg(all(feature = "libtorch", target_os = "linux", target_arch = "x86_64"))]
mod cuda_library;
mod doctor;
mod ensemble;
mod entropy;
#[cfg(not(feature = "libtorch"))] // which other users may not be able to read
mod few_threads;
#[cfg(unix)]
mod hostile;
mod hounsfield;
mod inputs;
mod max_ram;
mod memory;
mod outputs;
mod overlapping;
mod planes;
mod predict;
mod sharing;
mod threshold;
