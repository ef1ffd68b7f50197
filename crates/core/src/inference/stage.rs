//! One trained stage on one volume: the network's grid, its input, and logits slice by slice.

use ndarray::{Array4, ArrayView4, Axis, concatenate};

use super::nnunet::placement::Placed;
use super::patch_grid::Lattice;
use super::roi::Prior;
use super::sliding_window::{OnPieces, Pass, Planes};
use super::test_time_augmentation::Mirroring;
use crate::model::bundle::Bundle;
use crate::model::manifest::weights_file;
use crate::recipe::Recipe;
use crate::recipe::output_maps::output_maps;
use ctseg_base::limits::memory::limit;
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

/// Of libtorch: code that is loaded when it is first run, kernels that oneDNN makes for each shape. Measured on
/// processors: up to 72 MiB.
const LIBTORCH_BYTES: u64 = 80 << 20;

/// A stage that can be used: its recipe and the networks of its folds, whose logits are averaged.
pub struct Segmenter {
    pub recipe: Recipe,
    inference: Inference,
    /// Slices or patches that pass through a network at once.
    batch: usize,
}

/// The grid that a stage's network works on: `region` (voxels of the RAS-ordered grid) of `source` in the
/// recipe's spacing. Of an imported model that is [`Placed::grid`], and the region of interest plays no part.
pub fn network_grid(recipe: &Recipe, source: &Grid, region: &VoxelBox) -> Grid {
    if let Some(nnunet) = &recipe.nnunet {
        return Placed::new(recipe, nnunet, source, VoxelBox::whole(source.shape)).grid;
    }
    source
        .reoriented(Orientation::RAS)
        .cropped(region)
        .respaced(recipe.spacing_mm)
}

/// The network's input on `grid`: the windows, normalised, and the prior's probabilities where the recipe wants them.
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
    check_memory(recipe, grid)?;
    let scalings = recipe.scalings(volume);
    let channels = input_channels(volume, grid, &scalings, recipe.interpolation)?;
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

/// Inputs of no more bytes are not compared with the memory that there is.
const SMALL_INPUT: u64 = 256 << 20;

/// Refuses a network's grid that memory cannot hold, before any is taken for it: a few large voxels are many in the
/// network's spacing.
pub(super) fn check_memory(recipe: &Recipe, grid: &Grid) -> Result<()> {
    let bytes = (grid.voxels() as u64).saturating_mul(4 * recipe.channels() as u64);
    if bytes <= SMALL_INPUT {
        return Ok(());
    }
    let Some(limit) = limit().filter(|limit| limit.bytes < bytes) else {
        return Ok(());
    };
    let [x, y, z] = grid.shape;
    Err(Error::invalid(format!(
        "takes {x} × {y} × {z} voxels in the network's spacing, {} MB of memory for its input alone, and there are {} MB ({}): check the spacing in its header",
        bytes >> 20,
        limit.bytes >> 20,
        limit.source
    )))
}

impl Segmenter {
    /// A stage from networks with their weights, on `compute`'s device.
    pub fn new(recipe: Recipe, networks: Vec<Network>, compute: &Compute) -> Result<Self> {
        Ok(Self {
            batch: recipe.training.batch_size.max(1),
            recipe,
            inference: Inference::new(networks, compute)?,
        })
    }

    /// With no more than so many slices or patches in a network at once.
    pub fn in_batches(self, most: usize) -> Self {
        Self {
            batch: self.batch.min(most.max(1)),
            ..self
        }
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

    /// How many maps the networks give.
    pub fn maps(&self) -> usize {
        self.inference.head_size()[0]
    }

    /// How many maps are added up over patches: logits, or features where those are fewer.
    pub fn added_maps(&self, looks: usize) -> usize {
        let [maps, features] = self.inference.head_size();
        match (looks, self.folds()) {
            (1, 1) => maps.min(features),
            _ => maps,
        }
    }

    /// How many batches are computed side by side.
    pub fn at_once(&self) -> usize {
        match self.inference.compute().runs_side_by_side() && !self.recipe.by_patches() {
            true => rayon::current_num_threads(),
            false => 1,
        }
    }

    /// Bytes that the engine itself takes from its first pass on.
    pub fn engine_bytes(&self) -> u64 {
        match self.inference.compute().choice.is_libtorch() {
            true => LIBTORCH_BYTES,
            false => 0,
        }
    }

    /// About how much memory a batch of an input of `shape` (z, y, x) takes in a network, beside the weights.
    pub fn pass_bytes(&self, shape: [usize; 3], batch: usize, looks: usize) -> Result<u64> {
        let recipe = &self.recipe;
        let (sides, most, maps) = match recipe.by_patches() {
            false => {
                let multiple = recipe.network.multiple();
                let side = |axis: usize| padded_size(shape[axis], multiple[axis]);
                let seen = 2 * recipe.network.neighbours() + 1;
                ([seen, side(1), side(2)], shape[0], self.maps())
            }
            true => {
                let lattice = Lattice::new(recipe, shape);
                // Where features are added up, no patch has logits.
                (lattice.patch, lattice.count(), self.added_maps(looks))
            }
        };
        let batch = batch.min(most);
        let input = [batch, recipe.channels(), sides[0], sides[1], sides[2]];
        let cost = recipe.network.cost(recipe.channels(), maps, input)?;
        let compute = self.inference.compute();
        let threads = match (compute.runs_side_by_side(), recipe.by_patches()) {
            (true, true) => rayon::current_num_threads() as u64,
            // Each of the batches that are computed side by side has one.
            (true, false) => 1,
            (false, _) => 0,
        };
        let pass = cost.pass_bytes(batch, compute.precision, threads);
        Ok(match looks {
            1 => pass,
            // The mirrored input twice over, the sum of the logits, and those of the other side's structures.
            _ => {
                let voxels = batch * sides.into_iter().product::<usize>();
                pass + 2 * 4 * ((recipe.channels() + maps) * voxels) as u64
            }
        })
    }

    /// Whether what a pass has taken is still the engine's when its logits are restored: libtorch keeps it for the
    /// next one, and is asked for it after patches alone.
    pub fn keeps_memory(&self) -> bool {
        !self.recipe.by_patches() && !self.inference.compute().runs_side_by_side()
    }

    /// How many folds' networks there are.
    pub fn folds(&self) -> usize {
        self.inference.len()
    }

    /// How many pieces (slices or patches) of an input of `shape` (z, y, x) pass through the network.
    pub fn pieces(&self, shape: [usize; 3]) -> usize {
        match self.recipe.by_patches() {
            false => shape[0],
            true => Lattice::new(&self.recipe, shape).count(),
        }
    }

    /// What passes through the networks for a whole input, the mean of all being asked for.
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

    /// The mean of the networks' logits for a whole input, slices or patches in batches; `on_pieces` hears
    /// of each batch.
    ///
    /// # Shapes
    /// - `input`: (channel, z, y, x)
    /// - output: (structure, z, y, x)
    pub fn logits(&self, input: ArrayView4<f32>, on_pieces: &OnPieces) -> Result<Array4<f32>> {
        let mirroring = Mirroring::none();
        Planes::new(self.pass(input, &mirroring, on_pieces), 0)?.all()
    }

    /// [`Segmenter::logits`] of the network of one fold alone (its position among the trained ones).
    pub fn logits_of_fold(&self, fold: usize, input: ArrayView4<f32>) -> Result<Array4<f32>> {
        if fold >= self.folds() {
            return Err(Error::invalid(format!(
                "internal: the stage has no network for fold {fold}"
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

impl Segmenter {
    /// Where the networks' attention gates look in a whole input, see [`Inference::of_attention`].
    ///
    /// # Shapes
    /// - `input`: (channel, z, y, x)
    /// - output: (gate, z, y, x), finest first, values in (0, 1)
    pub fn attention(&self, input: ArrayView4<f32>) -> Result<Array4<f32>> {
        let gates = self.inference.of_attention()?;
        input_logits(&self.recipe, &gates, None, input, &|_| Ok(()))
    }
}

impl Bundle {
    /// A stage ready for use.
    ///
    /// # Errors
    /// The bundle has no such stage, or its weights do not fit its recipe.
    pub fn segmenter(&self, stage: u8, compute: &Compute) -> Result<Segmenter> {
        let manifest = self.needed_stage(stage)?;
        let recipe = manifest.recipe.clone();
        let values: Vec<u16> = self.structures()?.iter().map(|s| s.value).collect();
        let outputs = output_maps(&recipe, &values).len();
        let networks = self
            .stage_weights(stage)?
            .iter()
            .map(|weights| {
                let network = recipe
                    .network
                    .init(recipe.channels(), outputs, &compute.device)?;
                with_tensors(network, weights, &compute.device).map_err(|error| {
                    Error::file(self.path.join(weights_file(stage)), error.to_string())
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let segmenter = Segmenter::new(recipe, networks, compute)?;
        if compute.precision != Precision::Int8 {
            return Ok(segmenter);
        }
        let ranges = manifest.folds.iter().map(|fold| fold.input_ranges.clone());
        segmenter.in_integers(ranges.map(Option::unwrap_or_default).collect())
    }
}

/// Logits of a whole input by slices or by patches, as the network works, see [`Planes`].
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
