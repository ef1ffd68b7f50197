//! The `ctseg` command: its command line, `ctseg doctor`, `ctseg status`, Slurm jobs, the log.
//!
//! What it does is in the crates below, lowest first: `base` – `image` – `augment`, `phantom`, `engine` – `core` –
//! `predict`, `evaluate`, `interop` – `http`, `tracking` – `train` – `report`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod doctor;
mod log;
pub mod slurm;
pub mod status;
