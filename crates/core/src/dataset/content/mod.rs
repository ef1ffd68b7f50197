//! What a dataset holds, by hashes of decoded voxels: the same wherever its files lie and however they are compressed.

mod case;
mod changes;
mod same_images;

pub use case::{CaseContent, image_sha256};
pub use changes::DatasetContent;
pub use same_images::same_images;

pub(super) use case::labels_sha256;
