//! One trained stage on one volume: the network's grid, its input, and logits slice by slice.

use ndarray::parallel::prelude::*;
use ndarray::{Array4, ArrayView4, ArrayViewMut4, Axis, concatenate, s};

use super::recipe::Recipe;
use super::roi::Prior;
use super::sliding::{patch_count, patch_logits};
use crate::arrays::preprocess::{input_channels, padded_size, slice_batch};
use crate::arrays::resample::{Interpolation, resample_array};
use crate::error::{Error, Result};
use crate::tensors::device::Compute;
use crate::tensors::inference::Inference;
use crate::tensors::networks::Network;
use crate::tensors::quantisation::InputRanges;
use crate::values::{Grid, Orientation, Volume, VoxelBox};

/// A stage that can be used: its recipe and the networks of its folds, whose logits are averaged.
pub struct Segmenter {
    pub recipe: Recipe,
    inference: Inference,
}

/// The grid that a stage's network works on: `region` (voxels of the RAS-ordered grid) of `source` in the
/// recipe's spacing.
pub fn network_grid(recipe: &Recipe, source: &Grid, region: &VoxelBox) -> Grid {
    source
        .reoriented(Orientation::RAS)
        .cropped(region)
        .respaced(recipe.spacing_mm)
}

/// The network's input on `grid`: the windows, and the prior's probabilities where the recipe wants them.
///
/// # Shapes
/// output: (channel, z, y, x)
///
/// # Errors
/// The recipe wants a prior and there is none; grids that are not parallel.
pub fn network_input(
    recipe: &Recipe,
    volume: &Volume,
    grid: &Grid,
    prior: Option<&Prior>,
) -> Result<Array4<f32>> {
    check_extent(grid)?;
    let channels = input_channels(volume, grid, &recipe.windows_hu, recipe.interpolation)?;
    if !recipe.prior {
        return Ok(channels);
    }
    let prior = prior.ok_or_else(|| {
        Error::invalid(format!(
            "recipe {} needs stage 1's probabilities and there are none",
            recipe.name
        ))
    })?;
    let prior = resample_array(
        prior.probabilities().view(),
        &prior.grid,
        grid,
        Interpolation::Linear,
    )?;
    concatenate(
        Axis(0),
        &[channels.view(), prior.insert_axis(Axis(0)).view()],
    )
    .map_err(|error| Error::invalid(format!("internal: channels do not fit together: {error}")))
}

/// No scanner's field of view is longer along any axis.
const LONGEST_EXTENT_MM: f64 = 3000.0;

/// Refuses grids whose header cannot be true, before memory is sized by it.
fn check_extent(grid: &Grid) -> Result<()> {
    let spacing = grid.spacing_mm();
    let extent: [f64; 3] = std::array::from_fn(|axis| spacing[axis] * grid.shape[axis] as f64);
    if extent.iter().all(|mm| *mm <= LONGEST_EXTENT_MM) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "spans {:.0} × {:.0} × {:.0} mm; expected at most {LONGEST_EXTENT_MM} mm along each axis: check the spacing in its header",
        extent[0], extent[1], extent[2]
    )))
}

impl Segmenter {
    /// A stage from networks with their weights, on `compute`'s device.
    pub fn new(recipe: Recipe, networks: Vec<Network>, compute: &Compute) -> Result<Self> {
        Ok(Self {
            recipe,
            inference: Inference::new(networks, compute)?,
        })
    }

    /// With its convolutions in 8-bit integers, see [`Inference::in_integers`].
    pub fn in_integers(self, ranges: Vec<InputRanges>) -> Result<Self> {
        let inference = self.inference.in_integers(ranges)?;
        Ok(Self { inference, ..self })
    }

    /// With the values that convolutions take in recorded, see [`Inference::recording`].
    pub fn recording(self) -> Result<Self> {
        let inference = self.inference.recording()?;
        Ok(Self { inference, ..self })
    }

    /// What was recorded, for each fold's network.
    pub fn recorded(&self) -> Vec<InputRanges> {
        self.inference.recorded()
    }

    /// Gives memory that the engine keeps for the next input back to the system.
    pub fn release_memory(&self) -> Result<()> {
        self.inference.compute().release_memory()
    }

    /// How many folds' networks there are.
    pub fn folds(&self) -> usize {
        self.inference.len()
    }

    /// How many pieces (slices or patches) of an input of `shape` (z, y, x) pass through the network.
    pub fn pieces(&self, shape: [usize; 3]) -> usize {
        match self.recipe.network.dimensions() {
            2 => shape[0],
            _ => patch_count(&self.recipe, shape),
        }
    }

    /// The mean of the networks' logits for a whole input, slices or patches in batches; `on_pieces` hears
    /// of each batch.
    ///
    /// # Shapes
    /// - `input`: (channel, z, y, x)
    /// - output: (structure, z, y, x)
    pub fn logits(
        &self,
        input: ArrayView4<f32>,
        on_pieces: &(dyn Fn(usize) + Sync),
    ) -> Result<Array4<f32>> {
        input_logits(&self.recipe, &self.inference, None, input, on_pieces)
    }

    /// [`Segmenter::logits`] of the network of one fold alone (its position among the trained ones).
    pub fn logits_of_fold(&self, fold: usize, input: ArrayView4<f32>) -> Result<Array4<f32>> {
        if fold >= self.folds() {
            return Err(Error::invalid(format!(
                "internal: the stage has no network for fold {fold}"
            )));
        }
        input_logits(&self.recipe, &self.inference, Some(fold), input, &|_| ())
    }
}

impl Segmenter {
    /// Where the networks' attention gates look in a whole input, see [`Inference::of_attention`].
    ///
    /// # Shapes
    /// - `input`: (channel, z, y, x)
    /// - output: (gate, z, y, x), finest first, values in (0, 1)
    pub fn attention(&self, input: ArrayView4<f32>) -> Result<Array4<f32>> {
        let gates = self.inference.of_attention()?;
        input_logits(&self.recipe, &gates, None, input, &|_| ())
    }
}

/// Logits of a whole input by slices or by patches, as the network works.
///
/// # Shapes
/// - `input`: (channel, z, y, x)
/// - output: (structure, z, y, x)
pub fn input_logits(
    recipe: &Recipe,
    inference: &Inference,
    only: Option<usize>,
    input: ArrayView4<f32>,
    on_pieces: &(dyn Fn(usize) + Sync),
) -> Result<Array4<f32>> {
    match recipe.network.dimensions() {
        2 => slice_logits(recipe, inference, only, input, on_pieces),
        _ => patch_logits(recipe, inference, only, input, on_pieces),
    }
}

/// Logits of every axial slice, averaged over the networks (or of the one at `only`), in batches of the
/// recipe's size. On the pure-Rust engine batches run side by side on rayon's threads; results do not depend on
/// how many there are.
///
/// # Shapes
/// - `input`: (channel, z, y, x)
/// - output: (structure, z, y, x)
fn slice_logits(
    recipe: &Recipe,
    inference: &Inference,
    only: Option<usize>,
    input: ArrayView4<f32>,
    on_slices: &(dyn Fn(usize) + Sync),
) -> Result<Array4<f32>> {
    let (_, depth, height, width) = input.dim();
    let [_, along_y, along_x] = recipe.network.multiple();
    let size = [padded_size(height, along_y), padded_size(width, along_x)];
    let batch_size = recipe.training.batch_size.max(1);
    let first: Vec<usize> = (0..depth.min(batch_size)).collect();
    let neighbours = recipe.network.neighbours();
    let logits_of =
        |slices: &[usize]| batch_logits(inference, only, input, (slices, neighbours), size);
    let begun = logits_of(&first)?;
    let mut result = Array4::zeros((begun.dim().1, depth, height, width));
    let place = |mut part: ArrayViewMut4<f32>, logits: Array4<f32>| {
        // (slice, structure, y, x) with padding to (structure, slice, y, x) without
        part.assign(
            &logits
                .slice(s![.., .., ..height, ..width])
                .permuted_axes([1, 0, 2, 3]),
        );
        on_slices(part.dim().1);
    };
    let (part, mut rest) = result.view_mut().split_at(Axis(1), first.len());
    place(part, begun);
    let run = |(index, part): (usize, ArrayViewMut4<f32>)| -> Result<()> {
        let from = first.len() + index * batch_size;
        let slices: Vec<usize> = (from..from + part.dim().1).collect();
        place(part, logits_of(&slices)?);
        Ok(())
    };
    let parts = rest.axis_chunks_iter_mut(Axis(1), batch_size);
    if inference.compute().runs_side_by_side() {
        parts.into_par_iter().enumerate().try_for_each(run)?;
    } else {
        parts.into_iter().enumerate().try_for_each(run)?;
    }
    Ok(result)
}

/// Logits of some slices, which are seen with a number of neighbours on each side: (slice, structure, y, x),
/// padded size.
fn batch_logits(
    inference: &Inference,
    only: Option<usize>,
    input: ArrayView4<f32>,
    (slices, neighbours): (&[usize], usize),
    size: [usize; 2],
) -> Result<Array4<f32>> {
    let seen = 2 * neighbours + 1;
    let shape = [slices.len(), input.dim().0, seen, size[0], size[1]];
    let batch = slice_batch(input, slices, neighbours, size);
    let (values, shape) = inference.logits(&batch, shape, only)?;
    let [slices, structures, _, height, width] = shape;
    Array4::from_shape_vec((slices, structures, height, width), values)
        .map_err(|error| Error::invalid(format!("internal: {error}")))
}
