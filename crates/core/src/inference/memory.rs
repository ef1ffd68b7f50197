//! How much memory the segmentation of a volume takes, known from its header.

use super::batching::Frugality;
use super::cascade::Cascade;
use super::export_logits::{portion_shape, told_voxels, usual_portion};
use super::memory_of_input::{FLOAT, LABELS, input_bytes};
use super::patch_grid::Lattice;
use super::sliding_window::best_axis;
use super::stage::{Segmenter, network_grid};
use ctseg_base::{Error, Result};
use ctseg_image::preprocess::channels::padded_size;
use ctseg_image::resample::restoring_bytes;
use ctseg_image::space::{Grid, Orientation, VoxelBox};

/// Room for what is not counted one by one: allocators' remainders, compressors, progress.
const ROOM: f64 = 1.1;
const ROOM_BYTES: u64 = 32 << 20;

/// Bytes for each voxel of the source's grid: Hounsfield units.
const VOLUME: u64 = 4;

/// Clean-up takes structures side by side, each in its box: about so many bytes for each voxel of the source.
const CLEAN_UP: u64 = 8;

/// Bytes for each voxel of stage 1's grid: while the probabilities of all structures together become a region, and
/// what is kept of them.
const UNION: u64 = 12;
const PRIOR: u64 = 1;

/// Arrays of a slab of the source that are there while probabilities are told of it: the logits of a structure on
/// their way there and before, the sum over all classes, and what hearers work with.
const TOLD_ARRAYS: u64 = 6;

/// No machine segments a volume of more voxels, and below it no figure overflows.
const MOST_VOXELS: usize = 1 << 36;

/// What is held beside a cascade at work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside {
    /// For each voxel of the source's grid.
    pub bytes: u64,
    /// Whether its labels are cleaned up afterwards.
    pub clean_up: bool,
}

/// What the steps of a segmentation hold at their worst, in bytes, beside the process itself and its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The volume as it is read.
    pub volume: u64,
    /// The volume in a network's spacing, and what lies on the way there.
    pub preprocess: u64,
    /// A stage's input, the network at work on it, layers of logits, labels.
    pub network: u64,
    pub clean_up: u64,
    /// Of the stage with the most voxels (x, y, z).
    pub network_shape: [usize; 3],
}

impl Demand {
    /// The most that is held at once.
    pub fn peak(&self) -> u64 {
        let worst = self.preprocess.max(self.network).max(self.clean_up);
        ((self.volume + worst) as f64 * ROOM) as u64 + ROOM_BYTES
    }

    /// With what lies beside the cascade.
    pub(super) fn beside(mut self, beside: Beside, source: &Grid) -> Self {
        let voxels = source.voxels() as u64;
        self.volume += beside.bytes * voxels;
        if beside.clean_up {
            // When the last part is done with; its own labels are gone by then.
            self.clean_up = self.clean_up.max(CLEAN_UP * voxels);
        }
        self
    }

    fn preprocesses(&mut self, bytes: u64) {
        self.preprocess = self.preprocess.max(bytes);
    }

    fn computes(&mut self, stage: &Stage, bytes: u64) {
        self.network = self.network.max(bytes);
        let voxels = |[x, y, z]: [usize; 3]| x * y * z;
        if voxels(stage.grid.shape) > voxels(self.network_shape) {
            self.network_shape = stage.grid.shape;
        }
    }
}

impl Cascade {
    /// What the segmentation of a volume on `source` takes where the region of interest is the whole volume, as it
    /// is wherever a first stage finds nothing; `telling` where somebody hears the probabilities.
    ///
    /// # Errors
    /// More voxels, in the file or in a network's spacing, than any machine can segment.
    pub fn demand(&self, source: &Grid, frugality: &Frugality, telling: bool) -> Result<Demand> {
        countable(source)?;
        let voxels = source.voxels() as u64;
        let mut demand = Demand {
            volume: VOLUME * voxels,
            preprocess: 0,
            network: 0,
            clean_up: LABELS * voxels,
            network_shape: [0; 3],
        };
        if !self.postprocessing().is_empty() {
            demand.clean_up += CLEAN_UP * voxels;
        }
        let firsts = self.first_stages(&mut demand, source, frugality)?;
        let told = match telling {
            true => FLOAT * TOLD_ARRAYS * told_voxels(source) as u64,
            false => 0,
        };
        let mut stages = Vec::new();
        let mut inputs = 0;
        for (model, first) in self.models().iter().zip(&firsts.voxels) {
            let looks = model.mirroring.looks();
            let mut stage = Stage::of(&model.stage2, looks, source, frugality)?;
            stage.restore = stage.restore.max(told);
            let beside = firsts.bytes + inputs;
            demand.preprocesses(beside + stage.preprocess(&model.stage2, source, *first));
            inputs += stage.input;
            stages.push(stage);
        }
        // Planes of all models stream side by side; their logits are added to a mean.
        let sum = |of: fn(&Stage) -> u64| stages.iter().map(of).sum::<u64>();
        let most = |of: fn(&Stage) -> u64| stages.iter().map(of).max().unwrap_or(0);
        let mean = match stages.len() {
            0 | 1 => 0,
            _ => most(|stage| stage.logits),
        };
        let restore = mean + most(Stage::restoring);
        let at_work = most(|stage| stage.pass).max(most(|stage| stage.kept) + restore);
        let streaming = LABELS * voxels + inputs + sum(|stage| stage.layer) + at_work;
        for stage in &stages {
            demand.computes(stage, streaming);
        }
        let engines = self
            .models()
            .iter()
            .map(|model| model.stage2.engine_bytes());
        demand.network += engines.max().unwrap_or(0); // stays from the first pass on
        Ok(demand)
    }

    /// What first stages leave for the second ones; they are done before those begin.
    fn first_stages(
        &self,
        demand: &mut Demand,
        source: &Grid,
        frugality: &Frugality,
    ) -> Result<Firsts> {
        let labels = LABELS * source.voxels() as u64;
        let mut firsts = Firsts::default();
        for model in self.models() {
            let Some(stage1) = &model.stage1 else {
                firsts.voxels.push(0);
                continue;
            };
            let previous = model.previous(self.values(), None);
            let looks = previous.as_ref().map_or(1, |first| first.mirroring.looks());
            let stage = Stage::of(stage1, looks, source, frugality)?;
            demand.preprocesses(firsts.bytes + stage.preprocess(stage1, source, 0));
            let voxels = stage.voxels();
            // Restored as a second stage is; or logits of all planes, and what is made of them.
            let (work, left) = match previous {
                Some(_) => {
                    let restore = stage.kept + stage.restoring();
                    (labels + stage.layer + stage.pass.max(restore), labels)
                }
                None => {
                    let logits = FLOAT * stage.maps * voxels;
                    let planes = stage.pass + stage.layer;
                    (logits + planes.max(UNION * voxels), PRIOR * voxels)
                }
            };
            demand.computes(&stage, firsts.bytes + stage.input + work);
            firsts.bytes += left + stage.kept;
            firsts.voxels.push(voxels);
        }
        Ok(firsts)
    }
}

/// What is left of first stages.
#[derive(Default)]
struct Firsts {
    bytes: u64,
    /// Of each model's grid; 0 where it has none.
    voxels: Vec<u64>,
}

/// What one stage takes on a whole volume, in bytes.
struct Stage {
    grid: Grid,
    maps: u64,
    input: u64,
    /// Batches in the network, and what of their memory is still taken afterwards.
    pass: u64,
    kept: u64,
    /// Planes that are not complete yet, or wait for others.
    layer: u64,
    /// A portion of logits.
    logits: u64,
    /// Planes that threads divide for it.
    divided: u64,
    /// What threads hold that restore labels of it.
    restore: u64,
}

impl Stage {
    fn of(
        segmenter: &Segmenter,
        looks: usize,
        source: &Grid,
        frugality: &Frugality,
    ) -> Result<Self> {
        let recipe = &segmenter.recipe;
        let whole = VoxelBox::whole(source.reoriented(Orientation::RAS).shape);
        let grid = network_grid(recipe, source, &whole);
        countable(&grid)?;
        let shape = grid.shape_zyx();
        let maps = segmenter.maps() as u64;
        let batch = frugality
            .batch
            .unwrap_or(usize::MAX)
            .min(recipe.training.batch_size.max(1));
        let axis = best_axis(recipe, shape);
        let usual = || usual_portion(maps as usize, shape, axis);
        let portion = frugality.portion.unwrap_or_else(usual).min(shape[axis]);
        // A voxel of the source lies between two planes.
        let planes = (portion + 2).min(shape[axis]);
        let plane = (grid.voxels() / shape[axis].max(1)) as u64;
        let at_once = segmenter.at_once().min(shape[0].div_ceil(batch));
        let pass = at_once as u64 * segmenter.pass_bytes(shape, batch, looks)?;
        let (layer, divided) =
            planes_bytes(segmenter, looks, (shape, axis), planes, batch * at_once);
        let region = portion_shape(source, &grid, axis, portion);
        let restored = region.into_iter().product::<usize>() as u64;
        let logits_voxels = plane * planes as u64;
        Ok(Self {
            grid,
            maps,
            input: FLOAT * recipe.channels() as u64 * grid.voxels() as u64,
            pass,
            kept: match segmenter.keeps_memory() {
                true => pass,
                false => 0,
            },
            layer,
            logits: FLOAT * maps * logits_voxels,
            divided,
            restore: LABELS * restored
                + restoring_bytes([region[2], region[1]], restored, logits_voxels),
        })
    }

    fn voxels(&self) -> u64 {
        self.grid.voxels() as u64
    }

    /// A portion from its planes to its labels.
    fn restoring(&self) -> u64 {
        self.logits + self.divided.max(self.restore)
    }

    /// While its input is made, which is part of it, of a stage 1 with `prior` voxels.
    fn preprocess(&self, segmenter: &Segmenter, source: &Grid, prior: u64) -> u64 {
        input_bytes(&segmenter.recipe, source, &self.grid, prior)
    }
}

/// Of the planes that stream by, and of those that are made logits at once: `planes` of a portion and those that one
/// layer of patches, or `slices`, reach beyond it.
fn planes_bytes(
    segmenter: &Segmenter,
    looks: usize,
    (shape, axis): ([usize; 3], usize),
    planes: usize,
    slices: usize,
) -> (u64, u64) {
    let recipe = &segmenter.recipe;
    let maps = segmenter.maps();
    if !recipe.by_patches() {
        // A batch of slices; on the pure-Rust engine one for each thread.
        let multiple = recipe.network.multiple();
        let plane = padded_size(shape[1], multiple[1]) * padded_size(shape[2], multiple[2]);
        let there = (planes + slices).min(shape[axis]);
        return (FLOAT * (maps * plane * there) as u64, 0);
    }
    let lattice = Lattice::new(recipe, shape);
    let plane = lattice.layer_voxels(axis) / lattice.patch[axis].max(1);
    let there = (planes + lattice.patch[axis]).min(lattice.padded[axis]);
    let added = segmenter.added_maps(looks);
    let divided = (added + maps) * plane * planes.min(rayon::current_num_threads());
    (
        FLOAT * (added * plane * there) as u64,
        FLOAT * divided as u64,
    )
}

/// # Errors
/// More voxels than figures are made for.
fn countable(grid: &Grid) -> Result<()> {
    if grid.voxels() <= MOST_VOXELS {
        return Ok(());
    }
    let [x, y, z] = grid.shape;
    Err(Error::invalid(format!(
        "its field of view takes {x} × {y} × {z} voxels; expected at most {MOST_VOXELS} in the file and in the network's spacing: check shape and spacing in its header"
    )))
}
