//! Both stages of one model, or of several that look at a volume together, in memory.

pub(crate) mod segment;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::batching::Frugality;
use super::loaded_model::Model;
use super::stage::Segmenter;
use super::test_time_augmentation::Mirroring;
use super::threshold::Thresholds;
use crate::dataset::Structure;
use crate::model::bundle::Bundle;
use crate::model::common::{common_cleaning, common_structures};
use ctseg_base::{Error, Result};
use ctseg_engine::device::Compute;
use ctseg_engine::losses::Outputs;
use ctseg_engine::quantisation::InputRanges;
use ctseg_image::labels::postprocess::Step;
use ctseg_image::space::VoxelBox;

/// Models in memory, ready for any number of volumes.
pub struct Cascade {
    /// One, or several whose logits are averaged.
    models: Vec<Model>,
    /// Label values in the order of stage 2's maps.
    values: Vec<u16>,
    /// Clean-up of label maps by label value and, for the record, by name.
    plan: Vec<(u16, Vec<Step>)>,
    cleaning: BTreeMap<String, Vec<Step>>,
    /// The probability above which a voxel is a structure's, in the order of the maps.
    thresholds: Vec<f64>,
    /// Those that are not the usual one, by structure.
    unusual: BTreeMap<String, f64>,
    /// How many planes of logits are restored at once; none: as many as usual.
    portion: Option<usize>,
}

/// What was done to one volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CascadeReport {
    /// The region that stage 2 worked on, in voxels of the source file; none for a single-stage model.
    pub roi: Option<VoxelBox>,
    /// The region's share of the volume.
    pub roi_share: Option<f64>,
    /// How many mirror images the models' second stages looked at, the volume itself included.
    #[serde(default = "one")]
    pub looks: usize,
    /// Clean-up of the label map, by structure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub postprocessing: BTreeMap<String, Vec<Step>>,
    /// From which probability on a structure is marked, where it is not 0.5.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub threshold: BTreeMap<String, f64>,
    /// Of a model of several parts: those that looked, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// Deviations from the normal way, in words.
    pub notes: Vec<String>,
    /// Seconds per step.
    pub seconds: BTreeMap<String, f64>,
}

fn one() -> usize {
    1
}

/// Hears of slices or patches that passed through the second stages, and how many there are in all.
pub type OnProgress<'a> = dyn Fn(usize, usize) -> Result<()> + Sync + 'a;

impl Cascade {
    /// Loads the stages of a bundle that prediction needs.
    pub fn load(bundle: &Bundle, compute: &Compute) -> Result<Self> {
        Self::load_all(std::slice::from_ref(bundle), compute)
    }

    /// Loads several models that look at every volume together.
    ///
    /// # Errors
    /// None at all, models of different structures, or of independent ones and of exclusive classes: their logits
    /// mean different things; models whose axes lie differently.
    pub fn load_all(bundles: &[Bundle], compute: &Compute) -> Result<Self> {
        let structures = common_structures(bundles)?;
        let outputs = |bundle: &Bundle| bundle.stage(2).map(|stage| stage.recipe.outputs);
        if let Some(other) = bundles
            .iter()
            .find(|other| outputs(other) != outputs(&bundles[0]))
        {
            return Err(Error::file(
                &other.path,
                format!(
                    "models that are averaged must have the same outputs, independent or exclusive; {} has others",
                    bundles[0].path.display()
                ),
            ));
        }
        let models = bundles.iter().map(|bundle| Model::load(bundle, compute));
        let models: Vec<Model> = models.collect::<Result<_>>()?;
        same_axes(&models, bundles)?;
        let (cleaning, usual) = (common_cleaning(bundles), Thresholds::default());
        let plan = structures
            .iter()
            .filter_map(|s| Some((s.value, cleaning.get(&s.name)?.clone())));
        Ok(Self {
            models,
            values: structures.iter().map(|s| s.value).collect(),
            thresholds: structures.iter().map(|s| usual.of(&s.name)).collect(),
            unusual: BTreeMap::new(),
            plan: plan.collect(),
            cleaning,
            portion: None,
        })
    }

    /// How many maps there are.
    pub fn maps(&self) -> usize {
        self.values.len()
    }

    /// Label values in the order of the maps.
    pub fn values(&self) -> &[u16] {
        &self.values
    }

    /// The clean-up of label maps, by label value.
    pub fn clean_up(&self) -> &[(u16, Vec<Step>)] {
        &self.plan
    }

    /// Whether structures shut one another out, so that no voxel can be of two.
    pub fn is_exclusive(&self) -> bool {
        let mut models = self.models.iter();
        models.any(|model| model.stage2.recipe.outputs == Outputs::Exclusive)
    }

    pub(super) fn models(&self) -> &[Model] {
        &self.models
    }

    /// Working through volumes in a way that takes less memory.
    pub fn frugal(self, how: &Frugality) -> Self {
        let models = self.models.into_iter().map(|model| match how.batch {
            Some(batch) => Model {
                stage1: model.stage1.map(|stage| stage.in_batches(batch)),
                stage2: model.stage2.in_batches(batch),
                ..model
            },
            None => model,
        });
        Self {
            models: models.collect(),
            portion: how.portion.or(self.portion),
            ..self
        }
    }

    /// With so many planes of logits restored at once, where that matters: fewer take less memory.
    pub fn in_portions(self, planes: usize) -> Self {
        Self {
            portion: Some(planes.max(1)),
            ..self
        }
    }

    /// Without the clean-up that the models ask for.
    pub fn without_postprocessing(mut self) -> Self {
        self.plan.clear();
        self.cleaning.clear();
        self
    }

    /// With structures marked from other probabilities on.
    pub fn thresholded(mut self, structures: &[Structure], thresholds: &Thresholds) -> Self {
        let of_map = |value: &u16| {
            let mut structures = structures.iter();
            let structure = structures.find(|structure| structure.value == *value);
            structure.map_or(0.5, |structure| thresholds.of(&structure.name))
        };
        self.thresholds = self.values.iter().map(of_map).collect();
        self.unusual = thresholds.unusual(structures.iter().map(|s| s.name.as_str()));
        self
    }

    /// The probability above which a voxel is a structure's, in the order of the maps.
    pub fn thresholds(&self) -> &[f64] {
        &self.thresholds
    }

    /// Thresholds that are not 0.5, by structure.
    pub fn threshold(&self) -> &BTreeMap<String, f64> {
        &self.unusual
    }

    /// The clean-up of label maps, by structure.
    pub fn postprocessing(&self) -> &BTreeMap<String, Vec<Step>> {
        &self.cleaning
    }

    /// With the values that convolutions take in recorded from here on.
    ///
    /// # Errors
    /// The device does not compute in 8-bit integers.
    pub fn recording(self) -> Result<Self> {
        let models = self.models.into_iter().map(|model| {
            Ok(Model {
                stage1: model.stage1.map(Segmenter::recording).transpose()?,
                stage2: model.stage2.recording()?,
                ..model
            })
        });
        Ok(Self {
            models: models.collect::<Result<_>>()?,
            ..self
        })
    }

    /// What was recorded for each network of the first model's stage 1 (none where it is not in use) and stage 2.
    pub fn recorded(&self) -> [Vec<InputRanges>; 2] {
        let Some(model) = self.models.first() else {
            return Default::default();
        };
        let stage1 = model.stage1.as_ref().map(Segmenter::recorded);
        [stage1.unwrap_or_default(), model.stage2.recorded()]
    }

    /// With second stages looking at mirror images too, each along the axes that it was trained with.
    ///
    /// # Errors
    /// See [`Mirroring::new`].
    pub fn mirrored(mut self, structures: &[Structure]) -> Result<Self> {
        for model in &mut self.models {
            model.mirroring = Mirroring::new(&model.stage2.recipe, structures)?;
        }
        Ok(self)
    }

    /// Without mirror images, also where models are mirrored if nothing is said.
    pub fn unmirrored(mut self) -> Self {
        for model in &mut self.models {
            model.mirroring = Mirroring::none();
            model.previous_mirroring = Mirroring::none();
        }
        self
    }

    /// How many mirror images the second stages look at, the volume itself included, and the first stages of
    /// nnU-Net's cascades.
    pub fn looks(&self) -> usize {
        let first = |model: &Model| match model.previous(&self.values, None) {
            Some(stage) => stage.mirroring.looks(),
            None => 0,
        };
        self.models
            .iter()
            .map(|model| model.mirroring.looks() + first(model))
            .sum()
    }

    /// What stage 2's work is counted in.
    pub fn unit(&self) -> &'static str {
        self.models
            .first()
            .map_or("slices", |model| model.stage2.recipe.unit())
    }
}

/// # Errors
/// Models whose networks see a volume's axes in another order, or from another end: planes of logits would not fit
/// together.
fn same_axes(models: &[Model], bundles: &[Bundle]) -> Result<()> {
    let axes = |model: &Model| {
        let nnunet = model.stage2.recipe.nnunet.as_ref();
        nnunet.map(|nnunet| (nnunet.axes, nnunet.transpose, nnunet.regions.clone()))
    };
    let mut pairs = models.iter().zip(bundles);
    let Some((first, _)) = pairs.next() else {
        return Ok(());
    };
    match pairs.find(|(model, _)| axes(model) != axes(first)) {
        None => Ok(()),
        Some((_, other)) => Err(Error::file(
            &other.path,
            "its network sees the axes of a volume in another order than the first model's (nnU-Net's reader or transposition), or its regions come in another order; such models cannot be averaged: predict with each",
        )),
    }
}
