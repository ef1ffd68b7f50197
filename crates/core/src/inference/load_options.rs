//! How models are loaded: on which device, with or without mirror images and clean-up, within how much memory.

use super::cascade::Cascade;
use super::memory_limit::Limit;
use super::threshold::Thresholds;
use crate::model::bundle::Bundle;
use crate::model::common::common_structures;
use ctseg_base::Result;
use ctseg_engine::device::Compute;

/// How models are loaded.
#[derive(Clone, Copy)]
pub struct Loading<'a> {
    pub compute: &'a Compute,
    /// Whether networks look at mirror images too; none: as the models usually do.
    pub tta: Option<bool>,
    /// Whether label maps are cleaned up as the models ask for.
    pub postprocess: bool,
    /// From which probability on structures are marked.
    pub thresholds: &'a Thresholds,
    /// Most memory that may be taken, and for what; says afterwards which volumes are [refused](Limit::refused).
    pub limit: Option<&'a Limit>,
}

impl Loading<'_> {
    /// Models that look together, mirrored and cleaned up as is wanted, without regard to memory.
    pub fn cascade(&self, bundles: &[Bundle]) -> Result<Cascade> {
        let structures = common_structures(bundles)?;
        let cascade = Cascade::load_all(bundles, self.compute)?;
        let cascade = cascade.thresholded(&structures, self.thresholds);
        let cascade = match self.tta {
            Some(true) => cascade.mirrored(&structures)?,
            Some(false) => cascade.unmirrored(),
            None => cascade,
        };
        Ok(match self.postprocess {
            true => cascade,
            false => cascade.without_postprocessing(),
        })
    }
}
