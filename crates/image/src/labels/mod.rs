//! Operations on label maps: components, postprocessing, run-length coding, bounding boxes.

pub mod bounding_box;
pub mod components;
mod holes;
mod largest;
pub mod postprocess;
pub mod run_length_labels;
pub mod run_length_mask;
mod small;
mod smooth;
