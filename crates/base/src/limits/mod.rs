//! What of the machine this process may use: cores and memory, and what says so.

mod address_space;
pub mod cgroup;
pub mod cores;
pub mod host;
pub mod memory;
mod slurm_memory;
pub mod spawn;
pub mod threads;
