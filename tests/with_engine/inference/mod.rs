//! Prediction: batches, outputs, memory, devices.

mod attention;
mod batch;
mod claims;
#[cfg(all(feature = "libtorch", target_os = "linux", target_arch = "x86_64"))]
mod cuda_library;
mod doctor;
mod ensemble;
mod entropy;
#[cfg(not(feature = "libtorch"))] // other users may not be able to read libtorch
mod few_threads;
#[cfg(unix)]
mod hostile;
mod hounsfield;
mod inputs;
mod max_ram;
mod memory;
mod outputs;
mod overlapping;
mod predict;
mod sliding_window;
mod threshold;
