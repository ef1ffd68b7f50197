//! Processes: who they are, whether they still run, and the scheduler's job they run in.

pub mod child;
pub mod id;
pub mod owner;
pub mod scheduler_job;
