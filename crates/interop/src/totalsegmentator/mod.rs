//! Imports TotalSegmentator's tasks as multi-part models.

mod import;
mod tasks;

pub use import::{ImportTask, ImportedTask, import_task};
pub use tasks::{Tasks, task_names};
