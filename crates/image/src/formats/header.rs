//! The header fields common to all formats, and an image with its header.

use std::any::Any;
use std::sync::Arc;

use super::voxel_type::VoxelType;
use crate::space::{Grid, Volume};

/// A checked header of any format.
#[derive(Debug, Clone)]
pub struct VolumeHeader {
    /// Shape (x, y, z) and affine in mm (RAS+, as in nibabel).
    pub grid: Grid,
    /// The voxels' type as stored in the file.
    pub voxel_type: VoxelType,
    /// Voxel volume in mm³ from the header's own fields, which may be rounded differently from the grid's.
    pub voxel_mm3: f64,
    /// Warnings for the user, one line each, without the file name.
    pub warnings: Vec<String>,
    /// The format's own header, for its own code alone; see [`VolumeHeader::native`].
    pub native: Option<Arc<dyn Any + Send + Sync>>,
}

impl VolumeHeader {
    /// A header with only a grid and a voxel type.
    pub fn new(grid: Grid, voxel_type: VoxelType) -> Self {
        Self {
            grid,
            voxel_type,
            voxel_mm3: grid.spacing_mm().into_iter().product(),
            warnings: Vec::new(),
            native: None,
        }
    }

    /// The format's own header if it is of this type.
    pub fn native<T: 'static>(&self) -> Option<&T> {
        self.native.as_deref()?.downcast_ref()
    }
}

/// An image with its header.
#[derive(Debug, Clone)]
pub struct VolumeImage {
    /// The header, from which label maps take their grid.
    pub header: VolumeHeader,
    /// The voxels as `f32`, scaled by slope and intercept.
    pub volume: Volume,
    /// Number of voxels that are NaN or infinite as `f32`; they stay in `volume`, and `header` warns of them.
    pub non_finite: usize,
}
