//! Attention maps, input and logits of the (first) model's second stage on a volume, on the network's own grid.

use ndarray::{Array3, Array4, Axis};

use super::cascade::Cascade;
use super::cascade::segment::Found;
use super::loaded_model::{Model, StageOne};
use super::sliding_window::{Planes, best_axis};
use super::stage::check_extent;
use ctseg_base::{Error, Result};
use ctseg_image::space::{Grid, Volume};

/// Attention maps with the image that they belong to, in RAS order.
#[derive(Debug, Clone)]
pub struct Attention {
    /// The network's first channel (z, y, x), scaled to 0 to 1 over the first window.
    pub image: Array3<f32>,
    /// (gate, z, y, x), finest first, values in (0, 1).
    pub maps: Array4<f32>,
    /// Along x, y, z.
    pub spacing_mm: [f64; 3],
}

/// A network's input and output for a volume.
#[derive(Debug, Clone)]
pub struct NetworkOutput {
    pub grid: Grid,
    /// (channel, z, y, x)
    pub input: Array4<f32>,
    /// (structure, z, y, x)
    pub logits: Array4<f32>,
}

/// The first model with its second stage's grid and input.
struct StageInput<'a> {
    model: &'a Model,
    grid: Grid,
    input: Array4<f32>,
}

impl Cascade {
    /// The attention maps of the (first) model's stage 2 for `volume`, on the stage's grid.
    ///
    /// # Errors
    /// The network has no attention gates.
    pub fn attention(&self, volume: &Volume) -> Result<Attention> {
        let StageInput { model, grid, input } = self.stage_input(volume)?;
        let maps = model.stage2.attention(input.view())?;
        model.stage2.release_memory()?;
        let scalings = model.stage2.recipe.scalings(volume);
        let mut image = input.index_axis_move(Axis(0), 0);
        if let Some(scaling) = scalings.first().filter(|scaling| !scaling.is_plain()) {
            image.par_mapv_inplace(|value| scaling.share(value));
        }
        Ok(Attention {
            image,
            maps,
            spacing_mm: grid.spacing_mm(),
        })
    }

    /// Input and logits of the (first) model's second stage; for comparisons with other programs.
    pub fn network_output(&self, volume: &Volume) -> Result<NetworkOutput> {
        let StageInput { model, grid, input } = self.stage_input(volume)?;
        let pass = model
            .stage2
            .pass(input.view(), &model.mirroring, &|_| Ok(()));
        let logits = Planes::new(pass, best_axis(&model.stage2.recipe, grid.shape_zyx()))?.all()?;
        Ok(NetworkOutput {
            grid,
            input,
            logits,
        })
    }

    fn stage_input(&self, volume: &Volume) -> Result<StageInput<'_>> {
        check_extent(&volume.grid)?;
        let Found { region, firsts, .. } = self.found(volume, &|_| Ok(()))?;
        let model = self
            .models()
            .first()
            .ok_or_else(|| Error::internal("inference without a model"))?;
        let placement = model.placement(volume);
        let grid = match &placement {
            Some(placement) => placement.grid,
            None => model.grid(&volume.grid, region),
        };
        let first = firsts.first().unwrap_or(&StageOne::Nothing);
        let input = model.input(volume, &grid, placement.as_ref(), first)?;
        Ok(StageInput { model, grid, input })
    }
}
