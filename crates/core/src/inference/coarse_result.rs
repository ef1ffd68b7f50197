//! The coarse stage's result for one case: probabilities and region of interest.

use super::roi::Prior;
use ctseg_image::space::VoxelBox;

/// The out-of-fold stage-1 result of a case, as input to stage 2.
#[derive(Debug, Clone)]
pub struct StageOneResult {
    pub region: VoxelBox,
    pub prior: Prior,
}
