//! The first stage of nnU-Net's cascade: a label map of the whole volume, which the second stage sees as masks.

use super::placement::Placed;
use super::preprocess::nnunet_input;
use crate::inference::export_logits::{Stream, Target, restored, usual_portion};
use crate::inference::sliding_window::{OnPieces, Planes, best_axis};
use crate::inference::stage::Segmenter;
use crate::inference::test_time_augmentation::Mirroring;
use ctseg_base::{Error, Result};
use ctseg_image::space::{LabelMap, Volume};

/// How a first stage looks at volumes.
pub struct PreviousStage<'a> {
    pub segmenter: &'a Segmenter,
    pub mirroring: &'a Mirroring,
    /// Label values in the order of its maps.
    pub values: &'a [u16],
    /// Planes of logits that are restored at once; none: as many as usual.
    pub portion: Option<usize>,
}

impl PreviousStage<'_> {
    /// How many patches it looks at in a volume, mirror images counted.
    pub fn pieces(&self, volume: &Volume) -> usize {
        let recipe = &self.segmenter.recipe;
        let placed = recipe.nnunet.as_ref();
        let placed = placed.map(|nnunet| Placed::of_volume(recipe, nnunet, volume));
        let pieces = placed.map(|placed| self.segmenter.pieces(placed.grid.shape_zyx()));
        self.mirroring.looks() * pieces.unwrap_or(0)
    }

    /// Its labels, on exactly the volume's grid.
    ///
    /// # Errors
    /// A stage that is not one of nnU-Net's.
    pub fn labels(&self, volume: &Volume, on_pieces: &OnPieces) -> Result<LabelMap> {
        let recipe = &self.segmenter.recipe;
        let nnunet = recipe.nnunet.as_ref().ok_or_else(|| {
            Error::invalid(format!(
                "the first stage of a cascade must be nnU-Net's too, and '{}' is not; import the model again",
                recipe.name
            ))
        })?;
        let placed = Placed::of_volume(recipe, nnunet, volume);
        let input = nnunet_input(recipe, nnunet, volume, &placed, None)?;
        let shape = placed.grid.shape_zyx();
        let axis = best_axis(recipe, shape);
        let pass = self.segmenter.pass(input.view(), self.mirroring, on_pieces);
        let mut streams = [Stream {
            planes: Planes::new(pass, axis)?,
            grid: placed.grid,
        }];
        let portion = self.portion;
        let target = Target {
            source: &volume.grid,
            common: &placed.grid,
            axis,
            portion: portion.unwrap_or_else(|| usual_portion(self.values.len(), shape, axis)),
            values: self.values,
            thresholds: &[], // of what the second stage finds
            outputs: recipe.outputs,
            how: recipe.restoration(&volume.grid),
        };
        Ok(restored(&mut streams, &target, Vec::new())?.labels)
    }
}
