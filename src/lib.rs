//! The `ctseg` command: command line, `ctseg doctor`, `ctseg status`, Slurm jobs and logging.
//!
//! The work itself is done by the crates below it, lowest first: `base` – `image` – `augment`, `phantom`, `engine` –
//! `core` – `predict`, `evaluate`, `interop` – `http`, `tracking` – `train` – `report`.

#![forbid(unsafe_code)]

pub mod cli;
pub mod doctor;
mod log;
pub mod slurm;
pub mod status;
