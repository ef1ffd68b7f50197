//! Segments volumes with one model, an ensemble, or a multi-part model.

use std::collections::BTreeMap;

use super::cascade::{Cascade, CascadeReport, OnProgress};
use super::export_logits::ProbabilitySink;
use super::load_options::LoadOptions;
use super::memory::Overhead;
use super::memory_limit::within;
use super::multi_part::{MultiPartPredictor, RoughModel};
use super::threshold::Thresholds;
use crate::model::multi_part::Models;
use ctseg_base::{Error, Result};
use ctseg_image::labels::postprocess::Step;
use ctseg_image::space::{Grid, LabelMap, Volume};

/// Models in memory, ready to segment volumes.
pub enum Predictor {
    Cascade(Box<Cascade>),
    MultiPart(MultiPartPredictor),
}

impl Predictor {
    /// Loads models.
    ///
    /// # Errors
    /// Models that cannot be averaged; `--tta` with a model that was trained without mirroring.
    pub fn load(models: &Models, options: &LoadOptions) -> Result<Self> {
        match models {
            Models::Ensemble(bundles) => {
                let cascade = options.cascade(bundles)?;
                let cascade = match options.limit {
                    Some(limit) => within(cascade, limit),
                    None => cascade,
                };
                Ok(Self::Cascade(Box::new(cascade)))
            }
            Models::MultiPart(model, Some(opened)) => {
                let rough = opened.rough.as_ref();
                let rough = rough.map(|(_, models)| Self::rough(models, options));
                MultiPartPredictor::load(model, opened, options, rough.transpose()?)
                    .map(Self::MultiPart)
            }
            Models::MultiPart(_, None) => Err(Error::internal(
                "a multi-part model is loaded before its parts are chosen",
            )),
        }
    }

    /// The rough model of a multi-part model; it may have several parts itself.
    fn rough(models: &Models, options: &LoadOptions) -> Result<Box<dyn RoughModel>> {
        let plain = LoadOptions {
            tta: None,
            thresholds: &Thresholds::default(),
            ..*options
        };
        Ok(Box::new(Self::load(models, &plain)?))
    }

    /// See [`Cascade::check_memory`]; checks each part of a multi-part model.
    pub fn check_memory(
        &self,
        source: &Grid,
        with_probabilities: bool,
        resident: u64,
    ) -> Result<()> {
        match self {
            Self::Cascade(cascade) => {
                cascade.check_memory(source, with_probabilities, Overhead::default(), resident)
            }
            Self::MultiPart(parts) => parts.check_memory(source, resident),
        }
    }

    /// The cascade, unless it is a multi-part model.
    pub fn cascade(&self) -> Option<&Cascade> {
        match self {
            Self::Cascade(cascade) => Some(cascade),
            Self::MultiPart(_) => None,
        }
    }

    /// See [`Cascade::views`].
    pub fn views(&self) -> usize {
        match self {
            Self::Cascade(cascade) => cascade.views(),
            Self::MultiPart(parts) => parts.views(),
        }
    }

    /// Post-processing steps by structure.
    pub fn postprocessing(&self) -> &BTreeMap<String, Vec<Step>> {
        match self {
            Self::Cascade(cascade) => cascade.postprocessing(),
            Self::MultiPart(parts) => parts.postprocessing(),
        }
    }

    /// Thresholds other than 0.5, by structure.
    pub fn threshold(&self) -> &BTreeMap<String, f64> {
        match self {
            Self::Cascade(cascade) => cascade.threshold(),
            Self::MultiPart(parts) => parts.threshold(),
        }
    }

    pub fn unit(&self) -> &'static str {
        match self {
            Self::Cascade(cascade) => cascade.unit(),
            Self::MultiPart(_) => "steps",
        }
    }

    /// Segments one volume, see [`Cascade::segment`].
    pub fn segment(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
    ) -> Result<(LabelMap, CascadeReport)> {
        self.segment_with_probabilities(volume, on_pieces, Vec::new())
    }

    /// Like [`Predictor::segment`]; `sinks` receive the probabilities, if the models
    /// [have any](Models::has_probabilities).
    pub fn segment_with_probabilities(
        &self,
        volume: &Volume,
        on_pieces: &OnProgress,
        sinks: Vec<&mut dyn ProbabilitySink>,
    ) -> Result<(LabelMap, CascadeReport)> {
        match self {
            Self::Cascade(cascade) => cascade.segment_with_probabilities(volume, on_pieces, sinks),
            Self::MultiPart(parts) => parts.segment(volume, on_pieces),
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
