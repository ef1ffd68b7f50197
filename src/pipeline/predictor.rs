//! What segments volumes: one model, several that look together, or one of several parts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::bundle::Bundle;
use super::cascade::{Cascade, CascadeReport, OnProgress};
use super::dataset::Structure;
use super::demand::within;
use super::load_options::Loading;
use super::models::common_structures;
use super::parted::composite::{Composite, RoughModel};
use super::parted::{Opened, PartedModel};
use super::restoring::Probabilities;
use super::sidecar::ModelUsed;
use crate::arrays::postprocess::Step;
use crate::error::{Error, Result};
use crate::values::{LabelMap, Volume};

/// Models on disk, verified.
pub enum Models {
    /// One, or several whose logits are averaged.
    Averaged(Vec<Bundle>),
    /// One of several parts, and what is needed of it once that is known.
    Parted(Box<PartedModel>, Option<Opened>),
}

/// Models in memory.
pub enum Predictor {
    Cascade(Box<Cascade>),
    Composite(Composite),
}

impl Models {
    /// Opens models; those of one that has several parts are opened when [`Models::choose`] says which.
    ///
    /// # Errors
    /// No model, damaged ones, or one of several parts among others.
    pub fn open(paths: &[PathBuf]) -> Result<Self> {
        if let Some(parted) = paths.iter().find(|path| PartedModel::is_at(path)) {
            return match paths {
                [path] => Ok(Self::Parted(Box::new(PartedModel::open(path)?), None)),
                _ => Err(Error::file(
                    parted,
                    "is a model of several parts, which cannot be averaged with others; expected one --model",
                )),
            };
        }
        let bundles = paths.iter().map(|path| Bundle::open(path));
        Ok(Self::Averaged(bundles.collect::<Result<_>>()?))
    }

    /// The structures that label maps have, ascending by value.
    ///
    /// # Errors
    /// No model, or models of different structures.
    pub fn structures(&self) -> Result<Vec<Structure>> {
        match self {
            Self::Averaged(bundles) => common_structures(bundles),
            Self::Parted(model, _) => Ok(model.structures().to_vec()),
        }
    }

    /// Opens what is needed for `chosen` structures (label values by name), or for all.
    pub fn choose(&mut self, chosen: Option<&BTreeMap<String, u16>>) -> Result<()> {
        if let Self::Parted(model, opened) = self {
            *opened = Some(model.opened(chosen)?);
        }
        Ok(())
    }

    /// Each of them, with its hash.
    pub fn used(&self) -> Vec<ModelUsed> {
        match self {
            Self::Averaged(bundles) => {
                let used = bundles.iter().map(|bundle| ModelUsed {
                    model: bundle.path.clone(),
                    sha256: bundle.sha256(),
                });
                used.collect()
            }
            Self::Parted(model, _) => vec![ModelUsed {
                model: model.path.clone(),
                sha256: model.sha256(),
            }],
        }
    }

    /// The hash of the one model, or one that follows from those of all.
    pub fn sha256(&self) -> String {
        match self.used().as_slice() {
            [one] => one.sha256.clone(),
            several => {
                let hashes: Vec<&str> = several.iter().map(|model| model.sha256.as_str()).collect();
                format!("{:x}", Sha256::digest(hashes.join("\n")))
            }
        }
    }

    /// Whether the models give probabilities of all structures together; a model of several parts does not.
    pub fn tells_probabilities(&self) -> bool {
        matches!(self, Self::Averaged(_))
    }
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
                    Some(limit) => within(cascade, limit)?,
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
    fn rough(models: &Models, loading: &Loading) -> Result<RoughModel> {
        let plain = Loading {
            tta: None,
            ..*loading
        };
        let predictor = Self::load(models, &plain)?;
        Ok(Box::new(move |volume, on_pieces| {
            predictor.segment(volume, on_pieces)
        }))
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
