//! Size of training patches.

use serde::{Deserialize, Serialize};

/// Sides in voxels: `[y, x]` of slices, `[z, y, x]` of volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "training.patch_size must be [y, x] or, for volumes, [z, y, x]"
)]
pub enum PatchSize {
    Slice([usize; 2]),
    Volume([usize; 3]),
}

impl PatchSize {
    /// Sides along z, y, x; a slice is one voxel deep.
    pub fn zyx(self) -> [usize; 3] {
        match self {
            Self::Slice([y, x]) => [1, y, x],
            Self::Volume(zyx) => zyx,
        }
    }

    /// Number of axes.
    pub fn dimensions(self) -> usize {
        match self {
            Self::Slice(_) => 2,
            Self::Volume(_) => 3,
        }
    }

    /// The sides as they are written.
    pub fn sides(&self) -> &[usize] {
        match self {
            Self::Slice(sides) => sides,
            Self::Volume(sides) => sides,
        }
    }
}
