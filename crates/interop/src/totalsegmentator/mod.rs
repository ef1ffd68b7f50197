//! TotalSegmentator's models: what its tasks are made of, and how its weights become models of several parts.

mod import;
mod tasks;

pub use import::{Brought, ImportTask, import_task};
pub use tasks::{Tasks, task_names};
