//! Distributed training: process group, collectives, launchers and watchdog.

pub mod file_store;
pub mod launcher;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod process_group;
#[cfg(test)]
pub(crate) mod threads;
mod watchdog;
