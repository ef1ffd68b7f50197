//! The coarse stage's result for one case: probabilities and region of interest.

use super::roi::Prior;
use ctseg_image::space::VoxelBox;

/// What stage 2 needs to know of a case from a stage-1 model that never saw it.
#[derive(Debug, Clone)]
pub struct StageOneResult {
    pub region: VoxelBox,
    pub prior: Prior,
}
