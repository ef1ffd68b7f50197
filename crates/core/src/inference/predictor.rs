//! What segments volumes: one model, several that look together, or one of several parts.

use std::collections::BTreeMap;

use super::cascade::{Cascade, CascadeReport, OnProgress};
use super::export_logits::Probabilities;
use super::load_options::Loading;
use super::memory::Beside;
use super::memory_limit::within;
use super::multi_part::{Composite, RoughModel};
use super::threshold::Thresholds;
use crate::model::multi_part::Models;
use ctseg_base::{Error, Result};
use ctseg_image::labels::postprocess::Step;
use ctseg_image::space::{Grid, LabelMap, Volume};

/// Models in memory.
pub enum Predictor {
    Cascade(Box<Cascade>),
    Composite(Composite),
}

impl Predictor {
    /// Loads models.
    ///
    /// # Errors
    /// Models that do not go together, or that `--tta` has nothing to mirror along.
    pub fn load(models: &Models, loading: &Loading) -> Result<Self> {
        match models {
            Models::Averaged(bundles) => {
                let cascade = loading.cascade(bundles)?;
                let cascade = match loading.limit {
                    Some(limit) => within(cascade, limit),
                    None => cascade,
                };
                Ok(Self::Cascade(Box::new(cascade)))
            }
            Models::Parted(model, Some(opened)) => {
                let rough = opened.rough.as_ref();
                let rough = rough.map(|(_, models)| Self::rough(models, loading));
                Composite::load(model, opened, loading, rough.transpose()?).map(Self::Composite)
            }
            Models::Parted(_, None) => Err(Error::invalid(
                "internal: a model of several parts is loaded before it is known which",
            )),
        }
    }

    /// A rough model for the parts of another, which may be one of several parts itself.
    fn rough(models: &Models, loading: &Loading) -> Result<Box<dyn RoughModel>> {
        let plain = Loading {
            tta: None,
            thresholds: &Thresholds::default(),
            ..*loading
        };
        Ok(Box::new(Self::load(models, &plain)?))
    }

    /// See [`Cascade::check_memory`]; of a model of several parts each one's.
    pub fn check_memory(&self, source: &Grid, telling: bool, resident: u64) -> Result<()> {
        match self {
            Self::Cascade(cascade) => {
                cascade.check_memory(source, telling, Beside::default(), resident)
            }
            Self::Composite(composite) => composite.check_memory(source, resident),
        }
    }

    /// The models that look together, where it is not a model of several parts.
    pub fn cascade(&self) -> Option<&Cascade> {
        match self {
            Self::Cascade(cascade) => Some(cascade),
            Self::Composite(_) => None,
        }
    }

    /// See [`Cascade::looks`].
    pub fn looks(&self) -> usize {
        match self {
            Self::Cascade(cascade) => cascade.looks(),
            Self::Composite(composite) => composite.looks(),
        }
    }

    /// The clean-up of label maps, by structure.
    pub fn postprocessing(&self) -> &BTreeMap<String, Vec<Step>> {
        match self {
            Self::Cascade(cascade) => cascade.postprocessing(),
            Self::Composite(composite) => composite.postprocessing(),
        }
    }

    /// Thresholds that are not 0.5, by structure.
    pub fn threshold(&self) -> &BTreeMap<String, f64> {
        match self {
            Self::Cascade(cascade) => cascade.threshold(),
            Self::Composite(composite) => composite.threshold(),
        }
    }

    /// What work is counted in.
    pub fn unit(&self) -> &'static str {
        match self {
            Self::Cascade(cascade) => cascade.unit(),
            Self::Composite(_) => "steps",
        }
    }

    /// Segments one volume, see [`Cascade::segment`].
    pub fn segment(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
    ) -> Result<(LabelMap, CascadeReport)> {
        self.segment_telling(volume, on_pieces, Vec::new())
    }

    /// As [`Predictor::segment`]; `heard` are told the probabilities, where the models
    /// [have some](Models::tells_probabilities).
    pub fn segment_telling(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
        heard: Vec<&mut dyn Probabilities>,
    ) -> Result<(LabelMap, CascadeReport)> {
        match self {
            Self::Cascade(cascade) => cascade.segment_telling(volume, on_pieces, heard),
            Self::Composite(composite) => composite.segment(volume, on_pieces),
        }
    }
}

impl RoughModel for Predictor {
    fn segment(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
    ) -> Result<(LabelMap, CascadeReport)> {
        Predictor::segment(self, volume, on_pieces)
    }

    fn check_memory(&self, source: &Grid, resident: u64) -> Result<()> {
        Predictor::check_memory(self, source, false, resident)
    }
}
