//! A model in memory, with its stages.

use ndarray::Array4;

use super::nnunet::placement::Placement;
use super::nnunet::preprocess::nnunet_input;
use super::nnunet::previous_stage::PreviousStage;
use super::roi::Prior;
use super::stage::{Stage, network_grid, network_input};
use super::test_time_augmentation::Mirroring;
use crate::model::bundle::Bundle;
use crate::recipe::Region;
use ctseg_base::{Error, Result};
use ctseg_engine::device::Compute;
use ctseg_image::space::{Grid, LabelMap, Orientation, Volume, VoxelBox};

/// The output of a first stage.
pub(crate) enum StageOne {
    Nothing,
    Prior(Prior),
    Labels(LabelMap),
}

/// One model in memory.
pub(super) struct Model {
    /// Only if stage 2 runs inside a region of interest, or in a cascade of nnU-Net.
    pub(super) stage1: Option<Stage>,
    pub(super) stage2: Stage,
    pub(super) mirroring: Mirroring,
    /// Mirroring of the first stage of an nnU-Net cascade.
    pub(super) previous_mirroring: Mirroring,
}

impl Model {
    pub(super) fn load(bundle: &Bundle, compute: &Compute) -> Result<Self> {
        let stage2 = bundle.load_stage(2, compute)?;
        let nnunet = stage2.recipe.nnunet.as_ref();
        let is_cascade = nnunet.is_some_and(|nnunet| !nnunet.previous_labels.is_empty());
        let stage1 = match stage2.recipe.region {
            Region::Whole if !is_cascade => None,
            Region::Whole | Region::Roi => {
                let trained_on = bundle
                    .stage(2)
                    .and_then(|stage| stage.stage1_sha256.as_deref());
                if trained_on != bundle.stage_sha256(1) {
                    return Err(Error::file(
                        &bundle.path,
                        "stage 2 was trained with a different stage 1 than the one in the model; run 'ctseg fit --stage 2' again",
                    ));
                }
                Some(bundle.load_stage(1, compute)?)
            }
        };
        // nnU-Net models are mirrored by default, as in `nnUNetv2_predict`.
        let default_mirroring = |stage: &Stage| match &stage.recipe.nnunet {
            Some(nnunet) => Mirroring::along(&nnunet.mirror_axes),
            None => Mirroring::none(),
        };
        Ok(Self {
            mirroring: default_mirroring(&stage2),
            previous_mirroring: stage1
                .as_ref()
                .map_or_else(Mirroring::none, default_mirroring),
            stage1,
            stage2,
        })
    }

    /// The placement of the second stage's grid in a volume, for nnU-Net models.
    pub(super) fn placement(&self, volume: &Volume) -> Option<Placement> {
        let recipe = &self.stage2.recipe;
        let nnunet = recipe.nnunet.as_ref()?;
        Some(Placement::of_volume(recipe, nnunet, volume))
    }

    /// The second stage's input on `grid`, which is that of `placement` if there is one.
    pub(super) fn input(
        &self,
        volume: &Volume,
        grid: &Grid,
        placement: Option<&Placement>,
        found: &StageOne,
    ) -> Result<Array4<f32>> {
        let recipe = &self.stage2.recipe;
        match (&recipe.nnunet, placement, found) {
            (Some(nnunet), Some(placement), StageOne::Labels(labels)) => {
                nnunet_input(recipe, nnunet, volume, placement, Some(labels))
            }
            (Some(nnunet), Some(placement), _) => {
                nnunet_input(recipe, nnunet, volume, placement, None)
            }
            (_, _, StageOne::Prior(prior)) => network_input(recipe, volume, grid, Some(prior)),
            _ => network_input(recipe, volume, grid, None),
        }
    }

    /// The first stage of an nnU-Net cascade, whose labels are input to the second one.
    pub(super) fn previous<'a>(
        &'a self,
        values: &'a [u16],
        chunk_planes: Option<usize>,
    ) -> Option<PreviousStage<'a>> {
        let stage = self.stage1.as_ref()?;
        stage.recipe.nnunet.as_ref()?;
        Some(PreviousStage {
            stage,
            mirroring: &self.previous_mirroring,
            values,
            chunk_planes,
        })
    }

    /// The second stage's grid given the region that first stages found: that region or, if the model has no first
    /// stage, the whole volume, as in training.
    pub(super) fn grid(&self, source: &Grid, region: Option<VoxelBox>) -> Grid {
        let whole = VoxelBox::whole(source.reoriented(Orientation::RAS).shape);
        let region = region.filter(|_| self.stage1.is_some()).unwrap_or(whole);
        network_grid(&self.stage2.recipe, source, &region)
    }

    pub(super) fn pieces(&self, grid: &Grid) -> usize {
        self.mirroring.views() * self.stage2.pieces(grid.shape_zyx())
    }
}
