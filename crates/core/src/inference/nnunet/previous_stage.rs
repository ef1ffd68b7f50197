//! The first stage of an nnU-Net cascade: a label map of the whole volume, which the second stage receives as masks.

use super::placement::Placement;
use super::preprocess::nnunet_input;
use crate::inference::export_logits::{Stream, Target, default_chunk_planes, export_logits};
use crate::inference::sliding_window::{OnPieces, Planes, best_axis};
use crate::inference::stage::Stage;
use crate::inference::test_time_augmentation::Mirroring;
use ctseg_base::{Error, Result};
use ctseg_image::space::{LabelMap, Volume};

/// A first stage and its inference settings.
pub struct PreviousStage<'a> {
    pub stage: &'a Stage,
    pub mirroring: &'a Mirroring,
    /// Label values in the order of its maps.
    pub values: &'a [u16],
    /// Planes of logits that are exported at once; `None` for the default.
    pub chunk_planes: Option<usize>,
}

impl PreviousStage<'_> {
    /// Number of patches of a volume, times the views of test-time augmentation.
    pub fn pieces(&self, volume: &Volume) -> usize {
        let recipe = &self.stage.recipe;
        let placement = recipe.nnunet.as_ref();
        let placement = placement.map(|nnunet| Placement::of_volume(recipe, nnunet, volume));
        let pieces = placement.map(|placement| self.stage.pieces(placement.grid.shape_zyx()));
        self.mirroring.views() * pieces.unwrap_or(0)
    }

    /// The label map, on exactly the volume's grid.
    ///
    /// # Errors
    /// The stage was not imported from nnU-Net.
    pub fn labels(&self, volume: &Volume, on_pieces: &OnPieces) -> Result<LabelMap> {
        let recipe = &self.stage.recipe;
        let nnunet = recipe.nnunet.as_ref().ok_or_else(|| {
            Error::invalid(format!(
                "the first stage of an nnU-Net cascade must come from nnU-Net too, and '{}' does not; import the model again",
                recipe.name
            ))
        })?;
        let placement = Placement::of_volume(recipe, nnunet, volume);
        let input = nnunet_input(recipe, nnunet, volume, &placement, None)?;
        let shape = placement.grid.shape_zyx();
        let axis = best_axis(recipe, shape);
        let pass = self.stage.pass(input.view(), self.mirroring, on_pieces);
        let mut streams = [Stream {
            planes: Planes::new(pass, axis)?,
            grid: placement.grid,
        }];
        let chunk_planes = self.chunk_planes;
        let target = Target {
            source: &volume.grid,
            common: &placement.grid,
            axis,
            chunk_planes: chunk_planes
                .unwrap_or_else(|| default_chunk_planes(self.values.len(), shape, axis)),
            values: self.values,
            thresholds: &[], // apply to the second stage only
            outputs: recipe.outputs,
            how: recipe.restoration(&volume.grid),
        };
        Ok(export_logits(&mut streams, &target, Vec::new())?.labels)
    }
}
