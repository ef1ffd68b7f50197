//! ctseg: two-stage segmentation of CT volumes.
//!
//! Layers, each importing only those above it in this list: [`values`] (grids, volumes) – [`arrays`]
//! (NIfTI, resampling, preprocessing, metrics, phantoms) beside [`tensors`] (networks, losses, optimiser,
//! weights) – [`pipeline`] (recipes, datasets, training, prediction) – [`outside`] (pictures, progress) – [`cli`].

pub mod arrays;
pub mod cgroup;
pub mod cli;
pub mod cpu_budget;
pub mod error;
pub mod files;
pub mod host;
pub mod job;
pub mod leftovers;
pub mod limits;
pub mod nearest_names;
pub mod outside;
pub mod pipeline;
pub mod process_id;
pub mod table;
pub mod team;
pub mod tensors;
pub mod unzip;
pub mod values;
pub mod worker;

pub use error::{Error, Result};
