//! Peak memory of segmenting a volume, estimated from its header.

use super::batching::Batching;
use super::cascade::Cascade;
use super::export_logits::{chunk_shape, default_chunk_planes, slab_voxels};
use super::memory_of_input::{FLOAT, LABELS, input_bytes};
use super::patch_grid::PatchGrid;
use super::sliding_window::best_axis;
use super::stage::{Stage, network_grid};
use ctseg_base::{Error, Result};
use ctseg_image::preprocess::channels::padded_size;
use ctseg_image::resample::restore_bytes;
use ctseg_image::space::{Grid, Orientation, VoxelBox};

/// Margin for what is not counted: allocator overhead, compressors, progress.
const MARGIN: f64 = 1.1;
const MARGIN_BYTES: u64 = 32 << 20;

/// Bytes per source voxel: Hounsfield units.
const VOLUME: u64 = 4;

/// Approximate bytes per source voxel of post-processing, which handles structures in parallel, each in its box.
const POSTPROCESS: u64 = 8;

/// Bytes per voxel of stage 1's grid: while the union of the probabilities becomes a region, and what is kept of them.
const UNION: u64 = 12;
const PRIOR: u64 = 1;

/// Arrays per slab of source voxels while probabilities are exported: a structure's logits before and during
/// resampling, the sum over all classes, and the sinks' own.
const SLAB_ARRAYS: u64 = 6;

/// More voxels than any machine can segment; below it no estimate overflows.
const MAX_VOXELS: usize = 1 << 36;

/// Memory held while a cascade runs, in addition to its own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overhead {
    pub bytes_per_voxel: u64,
    /// Whether the labels are post-processed afterwards.
    pub postprocess: bool,
}

/// Peak bytes of the steps of a segmentation, in addition to the process and its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// The volume as read.
    pub volume: u64,
    /// Resampling to a network's grid, with intermediate results.
    pub preprocess: u64,
    /// A stage's input, the forward pass, layers of logits, labels.
    pub network: u64,
    pub postprocess: u64,
    /// The largest grid of any stage (x, y, z).
    pub network_shape: [usize; 3],
}

impl MemoryUse {
    /// The overall peak, with a margin.
    pub fn peak(&self) -> u64 {
        let worst = self.preprocess.max(self.network).max(self.postprocess);
        ((self.volume + worst) as f64 * MARGIN) as u64 + MARGIN_BYTES
    }

    pub(super) fn with_overhead(mut self, overhead: Overhead, source: &Grid) -> Self {
        let voxels = source.voxels() as u64;
        self.volume += overhead.bytes_per_voxel * voxels;
        if overhead.postprocess {
            // After the last part, whose own labels are released by then.
            self.postprocess = self.postprocess.max(POSTPROCESS * voxels);
        }
        self
    }

    fn add_preprocess(&mut self, bytes: u64) {
        self.preprocess = self.preprocess.max(bytes);
    }

    fn add_network(&mut self, stage: &StageMemory, bytes: u64) {
        self.network = self.network.max(bytes);
        let voxels = |[x, y, z]: [usize; 3]| x * y * z;
        if voxels(stage.grid.shape) > voxels(self.network_shape) {
            self.network_shape = stage.grid.shape;
        }
    }
}

impl Cascade {
    /// Peak memory of segmenting a volume on `source`, if the region of interest is the whole volume (as when a first
    /// stage finds nothing). `with_probabilities` counts their export.
    ///
    /// # Errors
    /// More voxels, in the file or at a network's spacing, than any machine can segment.
    pub fn memory_use(
        &self,
        source: &Grid,
        batching: &Batching,
        with_probabilities: bool,
    ) -> Result<MemoryUse> {
        check_voxels(source)?;
        let voxels = source.voxels() as u64;
        let mut usage = MemoryUse {
            volume: VOLUME * voxels,
            preprocess: 0,
            network: 0,
            postprocess: LABELS * voxels,
            network_shape: [0; 3],
        };
        if !self.postprocessing().is_empty() {
            usage.postprocess += POSTPROCESS * voxels;
        }
        let firsts = self.first_stages(&mut usage, source, batching)?;
        let slab_bytes = match with_probabilities {
            true => FLOAT * SLAB_ARRAYS * slab_voxels(source) as u64,
            false => 0,
        };
        let mut stages = Vec::new();
        let mut inputs = 0;
        for (model, first) in self.models().iter().zip(&firsts.voxels) {
            let views = model.mirroring.views();
            let mut stage = StageMemory::of(&model.stage2, views, source, batching)?;
            stage.restore = stage.restore.max(slab_bytes);
            let held = firsts.bytes + inputs;
            usage.add_preprocess(held + stage.preprocess(&model.stage2, source, *first));
            inputs += stage.input;
            stages.push(stage);
        }
        // Planes of all models stream in parallel; their logits are averaged.
        let sum = |of: fn(&StageMemory) -> u64| stages.iter().map(of).sum::<u64>();
        let most = |of: fn(&StageMemory) -> u64| stages.iter().map(of).max().unwrap_or(0);
        let mean = match stages.len() {
            0 | 1 => 0,
            _ => most(|stage| stage.logits),
        };
        let restore = mean + most(StageMemory::export);
        let at_work = most(|stage| stage.pass).max(most(|stage| stage.kept) + restore);
        let streaming = LABELS * voxels + inputs + sum(|stage| stage.layer) + at_work;
        for stage in &stages {
            usage.add_network(stage, streaming);
        }
        let engines = self
            .models()
            .iter()
            .map(|model| model.stage2.engine_bytes());
        usage.network += engines.max().unwrap_or(0); // never released
        Ok(usage)
    }

    /// What first stages leave for the second ones, which start after them.
    fn first_stages(
        &self,
        usage: &mut MemoryUse,
        source: &Grid,
        batching: &Batching,
    ) -> Result<Firsts> {
        let labels = LABELS * source.voxels() as u64;
        let mut firsts = Firsts::default();
        for model in self.models() {
            let Some(stage1) = &model.stage1 else {
                firsts.voxels.push(0);
                continue;
            };
            let previous = model.previous(self.values(), None);
            let views = previous.as_ref().map_or(1, |first| first.mirroring.views());
            let stage = StageMemory::of(stage1, views, source, batching)?;
            usage.add_preprocess(firsts.bytes + stage.preprocess(stage1, source, 0));
            let voxels = stage.voxels();
            // Exported like a second stage; or logits of all planes and their union.
            let (work, left) = match previous {
                Some(_) => {
                    let restore = stage.kept + stage.export();
                    (labels + stage.layer + stage.pass.max(restore), labels)
                }
                None => {
                    let logits = FLOAT * stage.maps * voxels;
                    let planes = stage.pass + stage.layer;
                    (logits + planes.max(UNION * voxels), PRIOR * voxels)
                }
            };
            usage.add_network(&stage, firsts.bytes + stage.input + work);
            firsts.bytes += left + stage.kept;
            firsts.voxels.push(voxels);
        }
        Ok(firsts)
    }
}

/// Results of first stages that are still in memory.
#[derive(Default)]
struct Firsts {
    bytes: u64,
    /// Voxels of each model's first-stage grid; 0 without one.
    voxels: Vec<u64>,
}

/// Memory of one stage on a whole volume, in bytes.
struct StageMemory {
    grid: Grid,
    maps: u64,
    input: u64,
    /// Forward passes of the parallel batches, and what the engine keeps afterwards.
    pass: u64,
    kept: u64,
    /// Planes that are incomplete or waiting for others.
    layer: u64,
    /// A chunk of logits.
    logits: u64,
    /// Copies of planes that threads divide by the coverage.
    divided: u64,
    /// Threads that resample the chunk to labels.
    restore: u64,
}

impl StageMemory {
    fn of(stage: &Stage, views: usize, source: &Grid, batching: &Batching) -> Result<Self> {
        let recipe = &stage.recipe;
        let whole = VoxelBox::whole(source.reoriented(Orientation::RAS).shape);
        let grid = network_grid(recipe, source, &whole);
        check_voxels(&grid)?;
        let shape = grid.shape_zyx();
        let maps = stage.maps() as u64;
        let batch = batching
            .batch
            .unwrap_or(usize::MAX)
            .min(recipe.training.batch_size.max(1));
        let axis = best_axis(recipe, shape);
        let usual = || default_chunk_planes(maps as usize, shape, axis);
        let chunk_planes = batching.chunk_planes.unwrap_or_else(usual).min(shape[axis]);
        // A source voxel lies between two planes.
        let planes = (chunk_planes + 2).min(shape[axis]);
        let plane = (grid.voxels() / shape[axis].max(1)) as u64;
        let at_once = stage.parallel_batches().min(shape[0].div_ceil(batch));
        let pass = at_once as u64 * stage.pass_bytes(shape, batch, views)?;
        let planes_bytes = planes_bytes(stage, views, shape, axis, planes, batch * at_once);
        let region = chunk_shape(source, &grid, axis, chunk_planes);
        let region_voxels = region.into_iter().product::<usize>() as u64;
        let logits_voxels = plane * planes as u64;
        Ok(Self {
            grid,
            maps,
            input: FLOAT * recipe.channels() as u64 * grid.voxels() as u64,
            pass,
            kept: match stage.keeps_memory() {
                true => pass,
                false => 0,
            },
            layer: planes_bytes.held,
            logits: FLOAT * maps * logits_voxels,
            divided: planes_bytes.divided,
            restore: LABELS * region_voxels
                + restore_bytes([region[2], region[1]], region_voxels, logits_voxels),
        })
    }

    fn voxels(&self) -> u64 {
        self.grid.voxels() as u64
    }

    /// Exporting a chunk, from its planes to its labels.
    fn export(&self) -> u64 {
        self.logits + self.divided.max(self.restore)
    }

    /// Preprocessing, including the input itself; `prior` are the voxels of stage 1's probabilities.
    fn preprocess(&self, stage: &Stage, source: &Grid, prior: u64) -> u64 {
        input_bytes(&stage.recipe, source, &self.grid, prior)
    }
}

/// Bytes of planes.
struct PlanesBytes {
    /// Held in memory.
    held: u64,
    /// Copies that are converted to logits in parallel.
    divided: u64,
}

/// Bytes of `planes` of a chunk, and of those of one layer of patches or of `slices` beyond it.
fn planes_bytes(
    stage: &Stage,
    views: usize,
    shape: [usize; 3],
    axis: usize,
    planes: usize,
    slices: usize,
) -> PlanesBytes {
    let recipe = &stage.recipe;
    let maps = stage.maps();
    if !recipe.is_patch_based() {
        // A batch of slices; on the pure-Rust engine, one per thread.
        let multiple = recipe.network.multiple();
        let plane = padded_size(shape[1], multiple[1]) * padded_size(shape[2], multiple[2]);
        let there = (planes + slices).min(shape[axis]);
        return PlanesBytes {
            held: FLOAT * (maps * plane * there) as u64,
            divided: 0,
        };
    }
    let grid = PatchGrid::new(recipe, shape);
    let plane = grid.layer_voxels(axis) / grid.patch[axis].max(1);
    let there = (planes + grid.patch[axis]).min(grid.padded[axis]);
    let added = stage.accumulated_maps(views);
    let divided = (added + maps) * plane * planes.min(rayon::current_num_threads());
    PlanesBytes {
        held: FLOAT * (added * plane * there) as u64,
        divided: FLOAT * divided as u64,
    }
}

/// # Errors
/// More than [`MAX_VOXELS`] voxels.
fn check_voxels(grid: &Grid) -> Result<()> {
    if grid.voxels() <= MAX_VOXELS {
        return Ok(());
    }
    let [x, y, z] = grid.shape;
    Err(Error::invalid(format!(
        "its field of view takes {x} × {y} × {z} voxels; expected at most {MAX_VOXELS} in the file and at the network's spacing: check shape and spacing in its header"
    )))
}
