//! From planes of logits to a label map on the source's grid, one chunk of planes at a time, so that memory does not
//! grow with the volume times the structures.

use std::ops::Range;
use std::time::Instant;

use ndarray::{Array3, Array4, ArrayView3, Axis, Slice};

use super::roi::map_between;
use super::sliding_window::Planes;
use super::threshold::logit;
use ctseg_base::{Error, Result};
use ctseg_engine::losses::Outputs;
use ctseg_image::resample::{
    Interpolation, RestoreOptions, resample_array, resample_linear, restore,
};
use ctseg_image::space::{Grid, GridMap, LabelMap, VoxelBox};

/// Approximate bytes of logits per chunk, and the smallest number of planes.
const CHUNK_BYTES: usize = 64 << 20;
const MIN_CHUNK_PLANES: usize = 6;

/// Probabilities are computed on slabs of about this many source voxels, but at least one slice of the file: a chunk
/// of a coarse grid can cover the whole of a fine source.
const SLAB_VOXELS: usize = 2 << 20;

/// Largest number of source voxels per slab of probabilities.
pub fn slab_voxels(source: &Grid) -> usize {
    let slice = source.shape[0] * source.shape[1];
    SLAB_VOXELS.max(slice).min(source.voxels())
}

/// Default number of planes per chunk, along `axis` of a grid of `shape` (z, y, x).
pub fn default_chunk_planes(structures: usize, shape: [usize; 3], axis: usize) -> usize {
    let plane_voxels = shape.iter().product::<usize>() / shape[axis].max(1);
    let plane_bytes = (size_of::<f32>() * structures).saturating_mul(plane_voxels);
    (CHUNK_BYTES / plane_bytes.max(1)).max(MIN_CHUNK_PLANES)
}

/// The largest region of `source` (x, y, z) that a chunk of `chunk_planes` planes covers, along `axis` of (z, y, x)
/// of the network's grid `common`.
pub fn chunk_shape(source: &Grid, common: &Grid, axis: usize, chunk_planes: usize) -> [usize; 3] {
    let mut shape = source.shape;
    let map = source.map_to(common);
    let along = map.and_then(|map| (0..3).find(|own| map[*own].axis == 2 - axis));
    if let (Some(map), Some(along)) = (map, along) {
        shape[along] = source_planes(chunk_planes, map[along].scale).min(shape[along]);
    }
    shape
}

/// Number of source planes per chunk of `chunk_planes` planes of a network's grid.
fn source_planes(chunk_planes: usize, scale: f64) -> usize {
    ((chunk_planes as f64 / scale.abs()) as usize).max(1)
}

/// A model's planes and their grid.
pub struct Stream<'a> {
    pub planes: Planes<'a>,
    pub grid: Grid,
}

/// Receives the probabilities of every structure, slab by slab; they are 0 outside all slabs.
pub trait ProbabilitySink {
    /// Receives the probabilities of the structure at index `structure` in `region` (the source's voxels). All
    /// structures of a region arrive in order before the next region.
    ///
    /// # Shapes
    /// `values`: (z, y, x) of the region, in [0, 1]
    fn put(&mut self, structure: usize, region: &VoxelBox, values: ArrayView3<f32>) -> Result<()>;
}

/// What the export needs besides the logits.
pub struct Target<'a> {
    pub source: &'a Grid,
    /// The grid on which logits are averaged, covering the source's region of interest.
    pub common: &'a Grid,
    /// The streaming axis, of (z, y, x) of the network's grids.
    pub axis: usize,
    pub chunk_planes: usize,
    /// Label values in the order of the maps.
    pub values: &'a [u16],
    /// Probability thresholds, in the order of the maps.
    pub thresholds: &'a [f64],
    pub outputs: Outputs,
    pub how: RestoreOptions,
}

/// A label map and timings.
pub struct Exported {
    pub labels: LabelMap,
    pub network_seconds: f64,
    pub export_seconds: f64,
}

/// Runs the streams to the end, averages their logits on the common grid and resamples them to labels as [`restore()`]
/// does; `sinks` receive the probabilities.
pub fn export_logits(
    streams: &mut [Stream],
    target: &Target,
    mut sinks: Vec<&mut dyn ProbabilitySink>,
) -> Result<Exported> {
    let started = Instant::now();
    let mut network_seconds = 0.0;
    let mut labels = LabelMap::empty(*target.source);
    let map = map_between(target.source, target.common)?;
    let Some(covered) = covered(&map, target.source, target.common) else {
        return Err(Error::internal(
            "the region of interest lies outside the volume",
        ));
    };
    for chunk in target.chunks(&map, &covered) {
        let mut region = covered;
        (region.start[chunk.axis], region.end[chunk.axis]) = (chunk.source.start, chunk.source.end);
        let reading = Instant::now();
        let from = target.part(chunk.planes.clone());
        let mut logits = ensemble_logits(streams, target, &from, chunk.planes)?;
        network_seconds += reading.elapsed().as_secs_f64();
        if !sinks.is_empty() {
            for slab in slabs(region) {
                let onto = target.source.cropped(&slab);
                emit(&mut sinks, &logits, &from, &onto, &slab, target)?;
            }
        }
        // The largest positive logit wins.
        for (mut logits, threshold) in logits.outer_iter_mut().zip(target.thresholds) {
            let offset = logit(*threshold);
            if offset != 0.0 {
                logits.par_mapv_inplace(|logit| logit - offset);
            }
        }
        let onto = target.source.cropped(&region);
        let part = restore(logits.view(), &from, &onto, target.values, &target.how)?;
        let mut to = labels.data.view_mut();
        for axis in 0..3 {
            to.slice_axis_inplace(
                Axis(2 - axis),
                Slice::from(region.start[axis]..region.end[axis]),
            );
        }
        to.assign(&part.data);
    }
    Ok(Exported {
        labels,
        network_seconds,
        export_seconds: started.elapsed().as_secs_f64() - network_seconds,
    })
}

/// A range of source planes that is exported at once.
struct Chunk {
    /// The source's axis (of x, y, z) that corresponds to the streaming axis.
    axis: usize,
    source: Range<usize>,
    /// The planes of the common grid that enclose its voxels.
    planes: Range<usize>,
}

impl Target<'_> {
    /// Chunks in the order of the planes.
    fn chunks(&self, map: &GridMap, covered: &VoxelBox) -> Vec<Chunk> {
        let along = 2 - self.axis;
        let Some(axis) = (0..3).find(|axis| map[*axis].axis == along) else {
            return Vec::new();
        };
        let (scale, offset) = (map[axis].scale, map[axis].offset);
        let shape = self.common.shape;
        let last = shape[along] as f64 - 1.0;
        let count = source_planes(self.chunk_planes, scale);
        let (start, end) = (covered.start[axis], covered.end[axis]);
        let mut chunks: Vec<Chunk> = (start..end)
            .step_by(count)
            .map(|from| {
                let source = from..(from + count).min(end);
                let place = |index: usize| (scale * index as f64 + offset).clamp(0.0, last);
                let (a, b) = (place(source.start), place(source.end - 1));
                Chunk {
                    axis,
                    source,
                    planes: a.min(b).floor() as usize..a.max(b).ceil() as usize + 1,
                }
            })
            .collect();
        chunks.sort_by_key(|chunk| chunk.planes.start);
        chunks
    }

    /// A range of planes of the common grid.
    fn part(&self, planes: Range<usize>) -> Grid {
        part_of(self.common, self.axis, planes)
    }
}

/// A range of planes of a grid along `axis` of (z, y, x).
fn part_of(grid: &Grid, axis: usize, planes: Range<usize>) -> Grid {
    let mut region = VoxelBox::whole(grid.shape);
    (region.start[2 - axis], region.end[2 - axis]) = (planes.start, planes.end);
    grid.cropped(&region)
}

/// The mean of the streams' logits on a range of planes of the common grid (`onto`), linearly interpolated if a
/// stream has a different grid.
fn ensemble_logits(
    streams: &mut [Stream],
    target: &Target,
    onto: &Grid,
    planes: Range<usize>,
) -> Result<Array4<f32>> {
    let count = streams.len();
    let mut sum: Option<Array4<f32>> = None;
    for stream in streams {
        let logits = if stream.grid == *target.common {
            stream.planes.take(planes.clone())?
        } else {
            interpolated(stream, target.axis, onto)?
        };
        sum = Some(match sum {
            None => logits,
            Some(sum) => sum + &logits,
        });
    }
    let mut sum = sum.ok_or_else(|| Error::internal("inference without a model"))?;
    if count > 1 {
        let share = 1.0 / count as f32;
        sum.par_mapv_inplace(|logit| logit * share);
    }
    Ok(sum)
}

/// A stream's logits, linearly interpolated on another grid.
fn interpolated(stream: &mut Stream, axis: usize, onto: &Grid) -> Result<Array4<f32>> {
    let map = map_between(onto, &stream.grid)?;
    let along = 2 - axis;
    let Some(own) = map.iter().position(|map| map.axis == along) else {
        return Err(Error::internal("the grids of two models are not parallel"));
    };
    let last = stream.grid.shape[along] as f64 - 1.0;
    let place = |index: usize| (map[own].scale * index as f64 + map[own].offset).clamp(0.0, last);
    let (a, b) = (place(0), place(onto.shape[own] - 1));
    let planes = a.min(b).floor() as usize..a.max(b).ceil() as usize + 1;
    let logits = stream.planes.take(planes.clone())?;
    let from = part_of(&stream.grid, axis, planes);
    let [z, y, x] = onto.shape_zyx();
    let mut result = Array4::zeros((logits.dim().0, z, y, x));
    for (mut to, logits) in result.outer_iter_mut().zip(logits.outer_iter()) {
        to.assign(&resample_array(logits, &from, onto, Interpolation::Linear)?);
    }
    Ok(result)
}

/// Splits a region into slabs of whole slices, each of at most [`slab_voxels`].
fn slabs(region: VoxelBox) -> impl Iterator<Item = VoxelBox> {
    let [nx, ny, _] = region.shape();
    let slices = (SLAB_VOXELS / (nx * ny).max(1)).max(1);
    let starts = (region.start[2]..region.end[2]).step_by(slices);
    starts.map(move |first| {
        let mut slab = region;
        slab.start[2] = first;
        slab.end[2] = (first + slices).min(region.end[2]);
        slab
    })
}

/// Sends the sinks the probabilities on the grid `onto` (the region), from logits on the grid `from`.
fn emit(
    sinks: &mut [&mut dyn ProbabilitySink],
    logits: &Array4<f32>,
    from: &Grid,
    onto: &Grid,
    region: &VoxelBox,
    target: &Target,
) -> Result<()> {
    let resampled = |own| {
        resample_linear(
            logits.index_axis(Axis(0), own),
            from,
            onto,
            target.how.nearest,
        )
    };
    // For exclusive classes: log-sum-exp over all logits, including the background's 0.
    let mut all: Option<Array3<f32>> = None;
    if target.outputs == Outputs::Exclusive {
        let mut sum = Array3::<f32>::zeros(onto.shape_zyx());
        for own in 0..logits.dim().0 {
            ndarray::Zip::from(&mut sum)
                .and(&resampled(own)?)
                .par_for_each(|sum, logit| {
                    *sum = sum.max(*logit) + (-(*sum - logit).abs()).exp().ln_1p()
                });
        }
        all = Some(sum);
    }
    for own in 0..logits.dim().0 {
        let mut values = resampled(own)?;
        match &all {
            Some(all) => ndarray::Zip::from(&mut values)
                .and(all)
                .par_for_each(|value, all| *value = (*value - all).exp()),
            None => values.par_mapv_inplace(|logit| 1.0 / (1.0 + (-logit).exp())),
        }
        for sink in sinks.iter_mut() {
            sink.put(own, region, values.view())?;
        }
    }
    Ok(())
}

/// The source's voxels whose centres lie within the outer faces of `common`.
fn covered(map: &GridMap, source: &Grid, common: &Grid) -> Option<VoxelBox> {
    let mut covered = VoxelBox::whole(source.shape);
    for (axis, along) in map.iter().enumerate() {
        let outer_face = common.shape[along.axis] as f64 - 0.5;
        let inside = |index: &usize| {
            let place = along.scale * *index as f64 + along.offset;
            (-0.5 - 1e-6..=outer_face + 1e-6).contains(&place)
        };
        covered.start[axis] = (0..source.shape[axis]).find(inside)?;
        covered.end[axis] = (0..source.shape[axis]).rev().find(inside)? + 1;
    }
    Some(covered)
}
