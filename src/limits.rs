//! What of the machine this process may use: cores and memory, and what says so.

pub mod cores;
pub mod memory;
