//! Volume file formats: [`FORMATS`] lists them, each implements [`VolumeFormat`], and the functions here choose one
//! by a file's content, then by its name.

mod foreign;
mod format;
mod header;
mod names;
mod registry;
mod source;
#[cfg(test)]
mod tests;
mod voxel_type;

pub(crate) use foreign::foreign;
pub use foreign::foreign_files;
pub use format::{LabelNames, MaskPiece, VolumeFormat};
pub use header::{VolumeHeader, VolumeImage};
pub(crate) use names::stem;
pub use registry::{
    FORMATS, VolumeReader, case_file, case_name, endings_in_words, file_stem, from_reader,
    is_volume_name, is_volume_or_foreign, open, read_header, read_label_map, read_label_names,
    read_label_runs, read_volume, volume_endings, write_label_map, write_mask, write_volume,
};
pub(crate) use source::{MAX_EXPANSION, MAX_PADDING};
pub use source::{START_BYTES, Source};
pub use voxel_type::VoxelType;
