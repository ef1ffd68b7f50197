//! What of the machine this process may use: cores and memory, and what says so.

pub mod cgroup;
pub mod cores;
pub mod host;
pub mod memory;
pub mod spawn;
pub mod threads;
