//! NIfTI-1 and NIfTI-2 single files (`.nii`, `.nii.gz`): read with every check that a damaged or hostile
//! file needs, written so that label maps lie exactly on their source image.
//!
//! Values and affines are nibabel's (`get_fdata`, `img.affine`); formats as in `nifti1.h` and `nifti2.h`
//! (<https://nifti.nimh.nih.gov>). No header is believed before the file's length has been compared
//! with it, so memory grows with what a file holds and not with what it claims.

mod channels;
mod datatype;
mod format;
mod geometry;
mod gzip;
mod header;
mod identify;
mod label_names;
mod maps;
mod names;
mod raw;
mod read;
mod read_header;
mod write;

pub use crate::formats::{LabelNames, MaskPiece, VoxelType};
pub use channels::{
    ChannelsRead, check_channels, copy, each_channel, read_channels, write_joined, write_split,
};
pub use format::Nifti;
pub use header::NiftiHeader;
pub use maps::ByteMaps;
pub use names::is_nifti_name;
pub use raw::Version;
pub use read::{
    NiftiImage, read_header, read_label_names, read_label_runs, read_labels, read_volume,
};
pub use write::{
    write_labels, write_map, write_maps, write_mask, write_named_labels, write_volume,
};
