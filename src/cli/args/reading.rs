//! Flags for reading files: grid tolerance and conversion to Hounsfield units.

use clap::Args;

use ctseg_core::dataset::Reading;
use ctseg_image::preprocess::rescale_hu::RescaleHu;
use ctseg_image::space::GridTolerance;

#[derive(Args)]
pub(crate) struct GridArgs {
    /// Largest corner distance, in voxels, at which two grids count as equal; nothing is resampled [default: 0.5]
    #[arg(long, value_name = "VOXELS")]
    grid_tolerance: Option<GridTolerance>,
}

#[derive(Args)]
pub(crate) struct RescaleArgs {
    /// Convert to Hounsfield units: auto (subtract 1024 or undo 16-bit wrap-around where a volume clearly needs it), or
    /// HU = value × SLOPE + OFFSET for all volumes, such as -1024,1
    #[arg(long, value_name = "auto|OFFSET,SLOPE", allow_hyphen_values = true)]
    rescale_hu: Option<RescaleHu>,
}

/// Grid tolerance and conversion to HU.
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
