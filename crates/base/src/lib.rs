//! Basics for all other crates: errors, atomic files, processes, limits of the machine, progress.

pub mod atomic_file;
pub mod cancel;
pub mod disk_full;
pub mod error;
pub mod failures;
pub mod hash;
pub mod limits;
pub mod mean;
pub mod memory_semaphore;
pub mod pointer_file;
pub mod process;
pub mod progress;
pub mod progress_counts;
pub mod regular_file;
pub mod replace_folder;
pub mod temp_files;
pub mod text;
pub mod unzip;

pub use error::{Error, Result};
