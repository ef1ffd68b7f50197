//! How models are loaded: device, test-time augmentation, post-processing, thresholds, memory limit.

use super::cascade::Cascade;
use super::memory_limit::BatchMemoryLimit;
use super::threshold::Thresholds;
use crate::model::bundle::Bundle;
use crate::model::common::common_structures;
use ctseg_base::Result;
use ctseg_engine::device::Compute;

/// How models are loaded.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    pub compute: &'a Compute,
    /// Test-time augmentation; `None` for each model's default.
    pub tta: Option<bool>,
    /// Whether to apply the models' post-processing.
    pub postprocess: bool,
    pub thresholds: &'a Thresholds,
    /// The memory limit of the batch; afterwards it lists the [refused](BatchMemoryLimit::refused) volumes.
    pub limit: Option<&'a BatchMemoryLimit>,
}

impl LoadOptions<'_> {
    /// Loads models as an ensemble, without regard to the memory limit.
    pub fn cascade(&self, bundles: &[Bundle]) -> Result<Cascade> {
        let structures = common_structures(bundles)?;
        let cascade = Cascade::load_all(bundles, self.compute)?;
        let cascade = cascade.with_thresholds(&structures, self.thresholds);
        let cascade = match self.tta {
            Some(true) => cascade.with_tta(&structures)?,
            Some(false) => cascade.without_tta(),
            None => cascade,
        };
        Ok(match self.postprocess {
            true => cascade,
            false => cascade.without_postprocessing(),
        })
    }
}
