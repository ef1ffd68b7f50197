//! Datasets of CT volumes with reference labels: where the files lie, which structures they hold,
//! whether they are sound, how they are split, and how they get into memory.

mod discovered;
mod problem;

mod cache;
mod case_check;
mod cases;
mod channels;
mod check;
mod copies;
mod descriptor;
mod folds;
mod grid_check;
mod json_layouts;
mod layouts;
mod load;
mod pattern;
mod splits;
mod structures;

pub use cache::{CacheCounts, CaseCache};
pub use case_check::unknown_values;
pub use cases::{Case, Dataset, LabelSource, Layout, Structure};
pub use channels::Channels;
pub use check::CheckReport;
pub use copies::Copies;
pub use folds::{Split, folds};
pub use grid_check::{GRID_TOLERANCE_MM, grid_difference};
pub use load::LoadedCase;
pub use problem::{CaseNote, CaseProblem, CheckDepth};
pub use splits::NamedSplit;
pub use structures::count_values;
