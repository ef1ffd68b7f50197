//! One trained stage: the network's grid, its input, and its logits.

use ndarray::{Array4, ArrayView4, Axis, concatenate};

use super::nnunet::placement::Placement;
use super::patch_grid::PatchGrid;
use super::roi::Prior;
use super::sliding_window::{OnPieces, Pass, Planes};
use super::test_time_augmentation::Mirroring;
use crate::model::bundle::Bundle;
use crate::model::manifest::weights_file;
use crate::recipe::Recipe;
use crate::recipe::output_maps::output_maps;
use ctseg_base::limits::memory::limit;
use ctseg_base::text::bytes::binary;
use ctseg_base::{Error, Result};
use ctseg_engine::device::Compute;
use ctseg_engine::inference::Inference;
use ctseg_engine::networks::Network;
use ctseg_engine::precision::Precision;
use ctseg_engine::quantisation::InputRanges;
use ctseg_engine::weights::with_tensors;
use ctseg_image::preprocess::channels::{input_channels, padded_size};
use ctseg_image::resample::{Interpolation, resample_array};
use ctseg_image::space::{Grid, Orientation, Volume, VoxelBox};

/// Memory of libtorch itself: code that is loaded on first use, oneDNN kernels per shape. Measured on CPUs: up to 72
/// MiB.
const LIBTORCH_BYTES: u64 = 80 << 20;

/// A stage ready for inference: its recipe and the networks of its folds, whose logits are averaged.
pub struct Stage {
    pub recipe: Recipe,
    inference: Inference,
    /// Batch size, in slices or patches.
    batch: usize,
}

/// The grid of a stage's network: `region` (voxels of the RAS-ordered grid) of `source`, at the recipe's spacing. For a
/// model imported from nnU-Net it is [`Placement::grid`], and the region of interest is ignored.
pub fn network_grid(recipe: &Recipe, source: &Grid, region: &VoxelBox) -> Grid {
    if let Some(nnunet) = &recipe.nnunet {
        return Placement::new(recipe, nnunet, source, VoxelBox::whole(source.shape)).grid;
    }
    source
        .reoriented(Orientation::RAS)
        .cropped(region)
        .respaced(recipe.spacing_mm)
}

/// The network's input on `grid`: the normalised windows and, if the recipe has `prior`, stage 1's probabilities.
///
/// # Shapes
/// output: (channel, z, y, x)
///
/// # Errors
/// The recipe needs a prior and none is given; grids that are not parallel.
pub fn network_input(
    recipe: &Recipe,
    volume: &Volume,
    grid: &Grid,
    prior: Option<&Prior>,
) -> Result<Array4<f32>> {
    check_extent(grid)?;
    check_memory(recipe, grid)?;
    let scalings = recipe.scalings(volume);
    let channels = input_channels(volume, grid, &scalings, recipe.interpolation)?;
    if !recipe.prior {
        return Ok(channels);
    }
    let prior = prior.ok_or_else(|| {
        Error::invalid(format!(
            "recipe {} needs stage 1's probabilities, and none are given",
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
    .map_err(|error| Error::internal(format!("channels of different shapes: {error}")))
}

/// No scanner has a longer field of view along any axis.
const LONGEST_EXTENT_MM: f64 = 3000.0;

/// Refuses a grid whose header is implausible, before anything is allocated by it.
pub fn check_extent(grid: &Grid) -> Result<()> {
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

/// Smaller inputs are not compared with the available memory.
const SMALL_INPUT: u64 = 256 << 20;

/// Refuses a network's grid that does not fit into memory, before it is allocated: a few large voxels can become many
/// at the network's spacing.
pub(super) fn check_memory(recipe: &Recipe, grid: &Grid) -> Result<()> {
    let bytes = (grid.voxels() as u64).saturating_mul(4 * recipe.channels() as u64);
    if bytes <= SMALL_INPUT {
        return Ok(());
    }
    let Some(limit) = limit().filter(|limit| limit.bytes < bytes) else {
        return Ok(());
    };
    let [x, y, z] = grid.shape;
    Err(Error::out_of_memory(format!(
        "needs {x} × {y} × {z} voxels at the network's spacing and {} of memory for the network's input alone; available: {} ({}). Check the spacing in its header",
        binary(bytes),
        binary(limit.bytes),
        limit.source
    )))
}

impl Stage {
    /// From networks with loaded weights, on `compute`'s device.
    pub fn new(recipe: Recipe, networks: Vec<Network>, compute: &Compute) -> Result<Self> {
        Ok(Self {
            batch: recipe.training.batch_size.max(1),
            recipe,
            inference: Inference::new(networks, compute)?,
        })
    }

    /// Limits the batch size.
    pub fn with_max_batch(self, max: usize) -> Self {
        Self {
            batch: self.batch.min(max.max(1)),
            ..self
        }
    }

    /// With its convolutions in 8-bit integers, see [`Inference::with_int8`].
    pub fn with_int8(self, ranges: Vec<InputRanges>) -> Result<Self> {
        let inference = self.inference.with_int8(ranges)?;
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

    /// Number of output maps.
    pub fn maps(&self) -> usize {
        self.inference.head_size()[0]
    }

    /// Number of maps that are accumulated over patches: logits, or features if those are fewer.
    pub fn accumulated_maps(&self, views: usize) -> usize {
        let [maps, features] = self.inference.head_size();
        match (views, self.folds()) {
            (1, 1) => maps.min(features),
            _ => maps,
        }
    }

    /// Number of batches that are computed in parallel.
    pub fn parallel_batches(&self) -> usize {
        match self.inference.compute().runs_batches_in_parallel() && !self.recipe.is_patch_based() {
            true => rayon::current_num_threads(),
            false => 1,
        }
    }

    /// Bytes that the engine itself takes after its first pass.
    pub fn engine_bytes(&self) -> u64 {
        match self.inference.compute().choice.is_libtorch() {
            true => LIBTORCH_BYTES,
            false => 0,
        }
    }

    /// Approximate bytes of a forward pass of one batch of an input of `shape` (z, y, x), without the weights.
    pub fn pass_bytes(&self, shape: [usize; 3], batch: usize, views: usize) -> Result<u64> {
        let recipe = &self.recipe;
        let (size, most, maps) = match recipe.is_patch_based() {
            false => {
                let multiple = recipe.network.multiple();
                let side = |axis: usize| padded_size(shape[axis], multiple[axis]);
                let depth = 2 * recipe.network.neighbours() + 1;
                ([depth, side(1), side(2)], shape[0], self.maps())
            }
            true => {
                let grid = PatchGrid::new(recipe, shape);
                // If features are accumulated, no patch has logits.
                (grid.patch, grid.count(), self.accumulated_maps(views))
            }
        };
        let batch = batch.min(most);
        let input = [batch, recipe.channels(), size[0], size[1], size[2]];
        let cost = recipe.network.cost(recipe.channels(), maps, input)?;
        let compute = self.inference.compute();
        let threads = match (compute.runs_batches_in_parallel(), recipe.is_patch_based()) {
            (true, true) => rayon::current_num_threads() as u64,
            // One per parallel batch.
            (true, false) => 1,
            (false, _) => 0,
        };
        let pass = cost.pass_bytes(batch, compute.precision, threads);
        Ok(match views {
            1 => pass,
            // Two copies of the mirrored input, the sum of the logits, and the logits with sides exchanged.
            _ => {
                let voxels = batch * size.into_iter().product::<usize>();
                pass + 2 * 4 * ((recipe.channels() + maps) * voxels) as u64
            }
        })
    }

    /// Whether the engine still holds the memory of a pass while its logits are exported: libtorch caches it for the
    /// next pass, and the cache is emptied only after patches.
    pub fn keeps_memory(&self) -> bool {
        !self.recipe.is_patch_based() && !self.inference.compute().runs_batches_in_parallel()
    }

    /// Number of networks, one per fold.
    pub fn folds(&self) -> usize {
        self.inference.len()
    }

    /// Number of slices or patches of an input of `shape` (z, y, x).
    pub fn pieces(&self, shape: [usize; 3]) -> usize {
        match self.recipe.is_patch_based() {
            false => shape[0],
            true => PatchGrid::new(&self.recipe, shape).count(),
        }
    }

    /// A forward pass over a whole input, with the mean of all networks.
    ///
    /// # Shapes
    /// - `input`: (channel, z, y, x)
    pub fn pass<'a>(
        &'a self,
        input: ArrayView4<'a, f32>,
        mirroring: &'a Mirroring,
        on_pieces: &'a OnPieces<'a>,
    ) -> Pass<'a> {
        Pass {
            recipe: &self.recipe,
            inference: &self.inference,
            only: None,
            input,
            batch: self.batch,
            mirroring,
            on_pieces,
        }
    }

    /// The mean of the networks' logits for a whole input; `on_pieces` is called after each batch.
    ///
    /// # Shapes
    /// - `input`: (channel, z, y, x)
    /// - output: (structure, z, y, x)
    pub fn logits(&self, input: ArrayView4<f32>, on_pieces: &OnPieces) -> Result<Array4<f32>> {
        let mirroring = Mirroring::none();
        Planes::new(self.pass(input, &mirroring, on_pieces), 0)?.all()
    }

    /// [`Stage::logits`] from the network of one fold only (its position among the trained ones).
    pub fn logits_of_fold(&self, fold: usize, input: ArrayView4<f32>) -> Result<Array4<f32>> {
        if fold >= self.folds() {
            return Err(Error::internal(format!(
                "the stage has no network for fold {fold}"
            )));
        }
        input_logits(
            &self.recipe,
            &self.inference,
            Some(fold),
            input,
            &|_| Ok(()),
        )
    }
}

impl Stage {
    /// The attention maps of the networks' gates for a whole input, see [`Inference::with_attention_maps`].
    ///
    /// # Shapes
    /// - `input`: (channel, z, y, x)
    /// - output: (gate, z, y, x), finest first, values in (0, 1)
    pub fn attention(&self, input: ArrayView4<f32>) -> Result<Array4<f32>> {
        let gates = self.inference.with_attention_maps()?;
        input_logits(&self.recipe, &gates, None, input, &|_| Ok(()))
    }
}

impl Bundle {
    /// Loads a stage for inference.
    ///
    /// # Errors
    /// The bundle has no such stage, or its weights do not match its recipe.
    pub fn load_stage(&self, number: u8, compute: &Compute) -> Result<Stage> {
        let manifest = self.require_stage(number)?;
        let recipe = manifest.recipe.clone();
        let values: Vec<u16> = self.structures()?.iter().map(|s| s.value).collect();
        let outputs = output_maps(&recipe, &values).len();
        let networks = self
            .stage_weights(number)?
            .iter()
            .map(|weights| {
                let network = recipe
                    .network
                    .init(recipe.channels(), outputs, &compute.device)?;
                with_tensors(network, weights, &compute.device).map_err(|error| {
                    Error::file(self.path.join(weights_file(number)), error.to_string())
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let stage = Stage::new(recipe, networks, compute)?;
        if compute.precision != Precision::Int8 {
            return Ok(stage);
        }
        let ranges = manifest.folds.iter().map(|fold| fold.input_ranges.clone());
        stage.with_int8(ranges.map(Option::unwrap_or_default).collect())
    }
}

/// Logits of a whole input, by slices or by patches, see [`Planes`].
///
/// # Shapes
/// - `input`: (channel, z, y, x)
/// - output: (structure, z, y, x)
pub fn input_logits(
    recipe: &Recipe,
    inference: &Inference,
    only: Option<usize>,
    input: ArrayView4<f32>,
    on_pieces: &OnPieces,
) -> Result<Array4<f32>> {
    let pass = Pass {
        recipe,
        inference,
        only,
        input,
        batch: recipe.training.batch_size.max(1),
        mirroring: &Mirroring::none(),
        on_pieces,
    };
    Planes::new(pass, 0)?.all()
}
