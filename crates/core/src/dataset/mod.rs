//! Datasets of CT volumes with reference labels: where the files lie, which structures they hold,
//! whether they are sound, how they are split, and how they get into memory.

mod cache;
mod case_integrity;
pub mod case_names;
mod cases;
mod channels;
mod class_locations;
pub mod content;
mod copies;
mod descriptor;
mod discovered;
pub mod fingerprint;
pub mod folds;
pub mod generated;
mod integrity;
mod json_layouts;
pub mod laterality;
mod layouts;
mod load;
mod path_pattern;
pub mod prepared_case;
mod problem;
mod reading;
pub mod reference;
pub mod scratch_copy;
mod splits;
mod structures;

pub use cache::{CacheCounts, CaseCache};
pub use case_integrity::unknown_values;
pub use cases::{Case, Dataset, LabelSource, Layout, Structure};
pub use channels::Channels;
pub use copies::Copies;
pub use folds::{Split, folds};
pub use integrity::CheckReport;
pub use layouts::DatasetImages;
pub use load::LoadedCase;
pub use problem::{CaseNote, CaseProblem, CheckDepth, grouped};
pub use reading::Reading;
pub use splits::{GivenSplits, NamedSplit, SPLITS};
pub use structures::count_values;
