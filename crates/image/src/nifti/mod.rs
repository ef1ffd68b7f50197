//! NIfTI-1 and NIfTI-2 single files (`.nii`, `.nii.gz`). Reading is safe for damaged and hostile files; label maps are
//! written on exactly the grid of their source image.
//!
//! Values and affines equal nibabel's (`get_fdata`, `img.affine`); the format follows `nifti1.h` and `nifti2.h`
//! (<https://nifti.nimh.nih.gov>). Headers are compared with the file's length before they are trusted, so memory grows
//! with a file's size and not with what its header claims.

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
