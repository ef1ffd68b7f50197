//! Processes: identity, liveness, and the scheduler's job.

pub mod child;
pub mod id;
pub mod owner;
pub mod scheduler_job;
