//! ctseg: two-stage segmentation of CT volumes.
//!
//! Layers, each importing only those above it in this list: [`values`] (grids, volumes) – [`arrays`]
//! (NIfTI, resampling, preprocessing, metrics, phantoms) beside [`tensors`] (networks, losses, optimiser,
//! weights) – [`pipeline`] (recipes, datasets, training, prediction) – [`outside`] (pictures, progress) – [`cli`].

pub mod cli;
pub mod doctor;
mod log;
pub mod slurm;
pub mod status;
