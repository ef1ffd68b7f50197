//! Flags for how files are read: which grids count as one, and how values become Hounsfield units.

use clap::Args;

use ctseg_core::dataset::Reading;
use ctseg_image::preprocess::rescale_hu::RescaleHu;
use ctseg_image::space::GridTolerance;

#[derive(Args)]
pub(crate) struct GridArgs {
    /// Largest distance in voxels between the farthest corners of two grids that count as one; voxels are taken one for
    /// one, nothing is resampled [default: 0.5]
    #[arg(long, value_name = "VOXELS")]
    grid_tolerance: Option<GridTolerance>,
}

#[derive(Args)]
pub(crate) struct RescaleArgs {
    /// Bring CT to Hounsfield units: auto (subtract 1024, or undo 16-bit wrap-around, where a volume plainly needs it), or
    /// HU = value × SLOPE + OFFSET for all volumes, such as -1024,1
    #[arg(long, value_name = "auto|OFFSET,SLOPE", allow_hyphen_values = true)]
    rescale_hu: Option<RescaleHu>,
}

/// Both.
#[derive(Args)]
pub(crate) struct ReadingArgs {
    #[command(flatten)]
    grid: GridArgs,
    #[command(flatten)]
    rescale: RescaleArgs,
}

impl GridArgs {
    pub(crate) fn tolerance(&self) -> GridTolerance {
        self.grid_tolerance.unwrap_or_default()
    }
}

impl RescaleArgs {
    pub(crate) fn rescale_hu(&self) -> Option<RescaleHu> {
        self.rescale_hu
    }
}

impl ReadingArgs {
    pub(crate) fn reading(&self) -> Reading {
        Reading {
            grid_tolerance: self.grid.tolerance(),
            rescale_hu: self.rescale.rescale_hu(),
        }
    }
}
