//! Limits of this process: cores, memory and threads, with their sources.

mod address_space;
pub mod cgroup;
pub mod cores;
pub mod host;
pub mod memory;
mod slurm_memory;
pub mod spawn;
pub mod threads;
