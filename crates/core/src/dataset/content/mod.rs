//! The content of a dataset as hashes of decoded voxels, independent of paths and compression.

mod case;
mod changes;
mod duplicate_images;

pub use case::{CaseContent, image_sha256};
pub use changes::DatasetContent;
pub use duplicate_images::duplicate_images;

pub(super) use case::labels_sha256;
