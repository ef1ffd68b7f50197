//! Models in memory, each with its stages, and what several have in common.

use ndarray::Array4;

use super::nnunet::placement::Placed;
use super::nnunet::preprocess::nnunet_input;
use super::nnunet::previous_stage::PreviousStage;
use super::roi::Prior;
use super::stage::{Segmenter, network_grid, network_input};
use super::test_time_augmentation::Mirroring;
use crate::model::bundle::Bundle;
use crate::recipe::Region;
use ctseg_base::{Error, Result};
use ctseg_engine::device::Compute;
use ctseg_image::space::{Grid, LabelMap, Orientation, Volume, VoxelBox};

/// What a first stage gave.
pub(crate) enum StageOne {
    Nothing,
    Prior(Prior),
    Labels(LabelMap),
}

/// One model in memory.
pub(super) struct Model {
    /// Only where stage 2 works inside a region of interest.
    pub(super) stage1: Option<Segmenter>,
    pub(super) stage2: Segmenter,
    pub(super) mirroring: Mirroring,
    /// Of the first stage of a cascade of nnU-Net's.
    pub(super) previous_mirroring: Mirroring,
}

impl Model {
    pub(super) fn load(bundle: &Bundle, compute: &Compute) -> Result<Self> {
        let stage2 = bundle.segmenter(2, compute)?;
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
                        "stage 2 was trained on another stage 1 than the model holds; run 'ctseg fit --stage 2' again",
                    ));
                }
                Some(bundle.segmenter(1, compute)?)
            }
        };
        // nnU-Net's models are mirrored where nothing else is asked for, as `nnUNetv2_predict` does.
        let usual = |stage: &Segmenter| match &stage.recipe.nnunet {
            Some(nnunet) => Mirroring::along(&nnunet.mirror_axes),
            None => Mirroring::none(),
        };
        Ok(Self {
            mirroring: usual(&stage2),
            previous_mirroring: stage1.as_ref().map_or_else(Mirroring::none, usual),
            stage1,
            stage2,
        })
    }

    /// Where its second stage's grid lies in a volume, of nnU-Net's models.
    pub(super) fn placed(&self, volume: &Volume) -> Option<Placed> {
        let recipe = &self.stage2.recipe;
        let nnunet = recipe.nnunet.as_ref()?;
        Some(Placed::of_volume(recipe, nnunet, volume))
    }

    /// Its second stage's input on `grid`, which is `placed`'s where there is one.
    pub(super) fn input(
        &self,
        volume: &Volume,
        grid: &Grid,
        placed: Option<&Placed>,
        found: &StageOne,
    ) -> Result<Array4<f32>> {
        let recipe = &self.stage2.recipe;
        match (&recipe.nnunet, placed, found) {
            (Some(nnunet), Some(placed), StageOne::Labels(labels)) => {
                nnunet_input(recipe, nnunet, volume, placed, Some(labels))
            }
            (Some(nnunet), Some(placed), _) => nnunet_input(recipe, nnunet, volume, placed, None),
            (_, _, StageOne::Prior(prior)) => network_input(recipe, volume, grid, Some(prior)),
            _ => network_input(recipe, volume, grid, None),
        }
    }

    /// The first stage of a cascade of nnU-Net's, whose labels the second one sees.
    pub(super) fn previous<'a>(
        &'a self,
        values: &'a [u16],
        portion: Option<usize>,
    ) -> Option<PreviousStage<'a>> {
        let segmenter = self.stage1.as_ref()?;
        segmenter.recipe.nnunet.as_ref()?;
        Some(PreviousStage {
            segmenter,
            mirroring: &self.previous_mirroring,
            values,
            portion,
        })
    }

    /// The grid that its second stage works on where first stages found `region`: that region, or, without a
    /// first stage of its own, the whole volume, as it was trained.
    pub(super) fn grid(&self, source: &Grid, region: Option<VoxelBox>) -> Grid {
        let whole = VoxelBox::whole(source.reoriented(Orientation::RAS).shape);
        let region = region.filter(|_| self.stage1.is_some()).unwrap_or(whole);
        network_grid(&self.stage2.recipe, source, &region)
    }

    pub(super) fn pieces(&self, grid: &Grid) -> usize {
        self.mirroring.looks() * self.stage2.pieces(grid.shape_zyx())
    }
}
