//! What every format's header says, and an image with it.

use std::any::Any;
use std::sync::Arc;

use super::voxel_type::VoxelType;
use crate::space::{Grid, Volume};

/// A checked header of any format.
#[derive(Debug, Clone)]
pub struct VolumeHeader {
    /// Shape (x, y, z) and affine in mm (RAS+, as nibabel's).
    pub grid: Grid,
    /// The voxels' type as stored in the file.
    pub voxel_type: VoxelType,
    /// Size of a voxel in mm³ by the header's own numbers, which may be rounded otherwise than the grid's.
    pub voxel_mm3: f64,
    /// What a user should know about the file, one line each, without its name.
    pub warnings: Vec<String>,
    /// The format's own header; only its own code looks into it, see [`VolumeHeader::native`].
    pub native: Option<Arc<dyn Any + Send + Sync>>,
}

impl VolumeHeader {
    /// A header that says nothing but where voxels of this type lie.
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

/// An image with everything its file says about it.
#[derive(Debug, Clone)]
pub struct VolumeImage {
    pub header: VolumeHeader,
    pub volume: Volume,
    /// Voxels that are NaN or infinite as `f32`; they stay in `volume` and are a warning in `header`.
    pub non_finite: usize,
}
