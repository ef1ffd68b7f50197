//! The models that segment a volume: one or an ensemble, each of one or two stages. Not nnU-Net's 3d_lowres cascade, whose
//! first stage is `nnunet/previous_stage.rs`.

pub(crate) mod segment;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::batching::Batching;
use super::loaded_model::Model;
use super::stage::Stage;
use super::test_time_augmentation::Mirroring;
use super::threshold::Thresholds;
use crate::dataset::Structure;
use crate::model::bundle::Bundle;
use crate::model::common::{common_postprocessing, common_structures};
use ctseg_base::{Error, Result};
use ctseg_engine::device::Compute;
use ctseg_engine::losses::Outputs;
use ctseg_engine::quantisation::InputRanges;
use ctseg_image::labels::postprocess::Step;
use ctseg_image::space::VoxelBox;

/// Models in memory, ready for any number of volumes.
pub struct Cascade {
    /// One model, or several whose logits are averaged.
    models: Vec<Model>,
    /// Label values in the order of stage 2's maps.
    values: Vec<u16>,
    /// Post-processing steps by label value and, for the sidecar, by name.
    plan: Vec<(u16, Vec<Step>)>,
    postprocessing: BTreeMap<String, Vec<Step>>,
    /// Probability thresholds, in the order of the maps.
    thresholds: Vec<f64>,
    /// Thresholds other than 0.5, by structure.
    custom_thresholds: BTreeMap<String, f64>,
    /// Planes of logits that are exported at once; `None` for the default.
    chunk_planes: Option<usize>,
}

/// How one volume was segmented.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CascadeReport {
    /// The region of interest of stage 2, in voxels of the source file; `None` for a single-stage model.
    pub roi: Option<VoxelBox>,
    /// The region's share of the volume.
    pub roi_share: Option<f64>,
    /// Total number of test-time augmentation views of the models' stages, including the originals.
    #[serde(rename = "looks", default = "one")]
    pub views: usize,
    /// Post-processing of the label map, by structure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub postprocessing: BTreeMap<String, Vec<Step>>,
    /// Thresholds other than 0.5, by structure.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub threshold: BTreeMap<String, f64>,
    /// The parts of a multi-part model that ran, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
    /// Deviations from normal processing, as text.
    pub notes: Vec<String>,
    /// Seconds per step.
    pub seconds: BTreeMap<String, f64>,
}

fn one() -> usize {
    1
}

/// Called with the number of slices or patches that passed through the networks, and their total.
pub type OnProgress<'a> = dyn Fn(usize, usize) -> Result<()> + Sync + 'a;

impl Cascade {
    /// Loads the stages of a bundle that inference needs.
    pub fn load(bundle: &Bundle, compute: &Compute) -> Result<Self> {
        Self::load_all(std::slice::from_ref(bundle), compute)
    }

    /// Loads several models as an ensemble.
    ///
    /// # Errors
    /// No model; models with different structures, with both independent and exclusive outputs (their logits cannot be
    /// averaged), or with different axis orders.
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
                    "models of an ensemble must all have independent outputs or all exclusive ones; {} has the other kind",
                    bundles[0].path.display()
                ),
            ));
        }
        let models = bundles.iter().map(|bundle| Model::load(bundle, compute));
        let models: Vec<Model> = models.collect::<Result<_>>()?;
        same_axes(&models, bundles)?;
        let (postprocessing, default) = (common_postprocessing(bundles), Thresholds::default());
        let plan = structures
            .iter()
            .filter_map(|s| Some((s.value, postprocessing.get(&s.name)?.clone())));
        Ok(Self {
            models,
            values: structures.iter().map(|s| s.value).collect(),
            thresholds: structures.iter().map(|s| default.of(&s.name)).collect(),
            custom_thresholds: BTreeMap::new(),
            plan: plan.collect(),
            postprocessing,
            chunk_planes: None,
        })
    }

    /// Number of output maps.
    pub fn maps(&self) -> usize {
        self.values.len()
    }

    /// Label values in the order of the maps.
    pub fn values(&self) -> &[u16] {
        &self.values
    }

    /// Post-processing steps by label value.
    pub fn postprocessing_plan(&self) -> &[(u16, Vec<Step>)] {
        &self.plan
    }

    /// Whether the classes are exclusive: no voxel can belong to two structures.
    pub fn is_exclusive(&self) -> bool {
        let mut models = self.models.iter();
        models.any(|model| model.stage2.recipe.outputs == Outputs::Exclusive)
    }

    pub(super) fn models(&self) -> &[Model] {
        &self.models
    }

    /// With smaller batches and chunks, which take less memory.
    pub fn with_batching(self, batching: &Batching) -> Self {
        let models = self.models.into_iter().map(|model| match batching.batch {
            Some(batch) => Model {
                stage1: model.stage1.map(|stage| stage.with_max_batch(batch)),
                stage2: model.stage2.with_max_batch(batch),
                ..model
            },
            None => model,
        });
        Self {
            models: models.collect(),
            chunk_planes: batching.chunk_planes.or(self.chunk_planes),
            ..self
        }
    }

    /// With this many planes of logits exported at once; fewer take less memory.
    pub fn with_chunk_planes(self, planes: usize) -> Self {
        Self {
            chunk_planes: Some(planes.max(1)),
            ..self
        }
    }

    /// Without the models' post-processing.
    pub fn without_postprocessing(mut self) -> Self {
        self.plan.clear();
        self.postprocessing.clear();
        self
    }

    pub fn with_thresholds(mut self, structures: &[Structure], thresholds: &Thresholds) -> Self {
        let of_map = |value: &u16| {
            let mut structures = structures.iter();
            let structure = structures.find(|structure| structure.value == *value);
            structure.map_or(0.5, |structure| thresholds.of(&structure.name))
        };
        self.thresholds = self.values.iter().map(of_map).collect();
        self.custom_thresholds = thresholds.non_default(structures.iter().map(|s| s.name.as_str()));
        self
    }

    /// Probability thresholds, in the order of the maps.
    pub fn thresholds(&self) -> &[f64] {
        &self.thresholds
    }

    /// Thresholds other than 0.5, by structure.
    pub fn threshold(&self) -> &BTreeMap<String, f64> {
        &self.custom_thresholds
    }

    /// Post-processing steps by structure.
    pub fn postprocessing(&self) -> &BTreeMap<String, Vec<Step>> {
        &self.postprocessing
    }

    /// Records the input ranges of convolutions from here on.
    ///
    /// # Errors
    /// The device does not support 8-bit integers.
    pub fn recording(self) -> Result<Self> {
        let models = self.models.into_iter().map(|model| {
            Ok(Model {
                stage1: model.stage1.map(Stage::recording).transpose()?,
                stage2: model.stage2.recording()?,
                ..model
            })
        });
        Ok(Self {
            models: models.collect::<Result<_>>()?,
            ..self
        })
    }

    /// The recorded ranges of each network of the first model's stage 1 (empty if it is not in use) and stage 2.
    pub fn recorded(&self) -> [Vec<InputRanges>; 2] {
        let Some(model) = self.models.first() else {
            return Default::default();
        };
        let stage1 = model.stage1.as_ref().map(Stage::recorded);
        [stage1.unwrap_or_default(), model.stage2.recorded()]
    }

    /// With test-time augmentation of the second stages, each along the axes that it was trained with.
    ///
    /// # Errors
    /// See [`Mirroring::new`].
    pub fn with_tta(mut self, structures: &[Structure]) -> Result<Self> {
        for model in &mut self.models {
            model.mirroring = Mirroring::new(&model.stage2.recipe, structures)?;
        }
        Ok(self)
    }

    /// Without test-time augmentation, even if it is a model's default.
    pub fn without_tta(mut self) -> Self {
        for model in &mut self.models {
            model.mirroring = Mirroring::none();
            model.previous_mirroring = Mirroring::none();
        }
        self
    }

    /// Total number of test-time augmentation views of the second stages, including the originals, and of the first
    /// stages of nnU-Net cascades.
    pub fn views(&self) -> usize {
        let first = |model: &Model| match model.previous(&self.values, None) {
            Some(stage) => stage.mirroring.views(),
            None => 0,
        };
        self.models
            .iter()
            .map(|model| model.mirroring.views() + first(model))
            .sum()
    }

    /// The unit of stage 2's progress.
    pub fn unit(&self) -> &'static str {
        self.models
            .first()
            .map_or("slices", |model| model.stage2.recipe.unit())
    }
}

/// # Errors
/// Models whose networks use a different order or direction of a volume's axes, so that planes of logits do not match.
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
            "its network uses a different axis order than the first model's (nnU-Net's reader or transposition), or a different order of regions; such models cannot be averaged: predict with each model separately",
        )),
    }
}
