//! A look at what the (first) model's second stage sees of a volume, and where it looks, before anything is restored.

use ndarray::{Array3, Array4, Axis};

use super::cascade::Cascade;
use super::cascade::segment::Found;
use super::loaded_model::{Model, StageOne};
use super::sliding_window::{Planes, best_axis};
use super::stage::check_extent;
use ctseg_base::{Error, Result};
use ctseg_image::space::{Grid, Volume};

/// What attention gates look at, in RAS order.
#[derive(Debug, Clone)]
pub struct Attention {
    /// The network's first channel: shares of the first window, from 0 to 1 (z, y, x).
    pub image: Array3<f32>,
    /// (gate, z, y, x), finest first, values in (0, 1).
    pub maps: Array4<f32>,
    /// Along x, y, z.
    pub spacing_mm: [f64; 3],
}

/// A network's view of a volume.
#[derive(Debug, Clone)]
pub struct Seen {
    pub grid: Grid,
    /// (channel, z, y, x)
    pub input: Array4<f32>,
    /// (structure, z, y, x)
    pub logits: Array4<f32>,
}

/// The first model with the grid that its second stage works on, and the network's input there.
struct Shown<'a> {
    model: &'a Model,
    grid: Grid,
    input: Array4<f32>,
}

impl Cascade {
    /// Where the attention gates of the (first) model's stage 2 look in `volume`, on the grid that the stage
    /// works on.
    ///
    /// # Errors
    /// Its network has no gates.
    pub fn attention(&self, volume: &Volume) -> Result<Attention> {
        let Shown { model, grid, input } = self.shown(volume)?;
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

    /// What the (first) model's second stage sees of a volume and says of it; for comparisons with other programs.
    pub fn seen(&self, volume: &Volume) -> Result<Seen> {
        let Shown { model, grid, input } = self.shown(volume)?;
        let pass = model
            .stage2
            .pass(input.view(), &model.mirroring, &|_| Ok(()));
        let logits = Planes::new(pass, best_axis(&model.stage2.recipe, grid.shape_zyx()))?.all()?;
        Ok(Seen {
            grid,
            input,
            logits,
        })
    }

    fn shown(&self, volume: &Volume) -> Result<Shown<'_>> {
        check_extent(&volume.grid)?;
        let Found { region, firsts, .. } = self.found(volume, &|_| Ok(()))?;
        let model = self
            .models()
            .first()
            .ok_or_else(|| Error::invalid("internal: prediction without a model"))?;
        let placed = model.placed(volume);
        let grid = match &placed {
            Some(placed) => placed.grid,
            None => model.grid(&volume.grid, region),
        };
        let first = firsts.first().unwrap_or(&StageOne::Nothing);
        let input = model.input(volume, &grid, placed.as_ref(), first)?;
        Ok(Shown { model, grid, input })
    }
}
