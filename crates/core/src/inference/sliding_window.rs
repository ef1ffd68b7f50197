//! Sliding-window inference, streamed along one axis: only the requested planes, and those that patches still
//! overlap, are in memory.

use std::collections::VecDeque;
use std::ops::Range;

use ndarray::parallel::prelude::*;
use ndarray::{Array2, Array3, Array4, ArrayView4, ArrayViewMut3, Axis, s};

use super::patch_grid::{PatchGrid, divide, other_axes};
use super::test_time_augmentation::Mirroring;
use crate::recipe::Recipe;
use ctseg_base::{Error, Result};
use ctseg_engine::inference::{Head, Inference, Logits};
use ctseg_image::preprocess::channels::{padded_size, slice_batch};

/// Called with the number of slices or patches that passed through a network; an error stops the work.
pub type OnPieces<'a> = dyn Fn(usize) -> Result<()> + Sync + 'a;

/// A forward pass over a whole input.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub recipe: &'a Recipe,
    pub inference: &'a Inference,
    /// Use only this fold's network instead of the mean of all.
    pub only: Option<usize>,
    /// (channel, z, y, x)
    pub input: ArrayView4<'a, f32>,
    /// Batch size, in slices or patches.
    pub batch: usize,
    /// Test-time augmentation.
    pub mirroring: &'a Mirroring,
    pub on_pieces: &'a OnPieces<'a>,
}

/// The output of a [`Pass`], plane by plane.
pub struct Planes<'a> {
    pass: Pass<'a>,
    /// The streaming axis, of (z, y, x).
    axis: usize,
    /// Shape of the input (z, y, x).
    shape: [usize; 3],
    mode: Mode,
    /// Planes of the padded input, starting at `first`, each (map, the two other axes); with patches, weighted sums
    /// that are not yet divided by the coverage.
    planes: VecDeque<Array3<f32>>,
    first: usize,
    /// Planes before this one are complete.
    finished: usize,
    /// Buffers of released planes, for reuse.
    spare: Vec<Array3<f32>>,
}

/// How planes are computed.
enum Mode {
    /// One plane per slice.
    Slices,
    Patches(Box<Patches>),
}

struct Patches {
    grid: PatchGrid,
    coverage: [Vec<f32>; 3],
    corners: Vec<[usize; 3]>,
    /// Number of finished patches.
    done: usize,
    /// Set if features are accumulated instead of logits.
    features: Option<(Inference, Head)>,
}

/// The streaming axis that takes the least memory: z for slices; for patches z or y (rows of patches lie along x),
/// whichever has the smaller layer.
pub fn best_axis(recipe: &Recipe, shape: [usize; 3]) -> usize {
    if recipe.network.dimensions() == 2 {
        return 0;
    }
    let grid = PatchGrid::new(recipe, shape);
    match grid.layer_voxels(0) <= grid.layer_voxels(1) {
        true => 0,
        false => 1,
    }
}

impl<'a> Planes<'a> {
    /// Streams along `axis` of (z, y, x), see [`best_axis`]. Computes nothing yet.
    pub fn new(pass: Pass<'a>, axis: usize) -> Result<Self> {
        let (_, depth, height, width) = pass.input.dim();
        let shape = [depth, height, width];
        let flat = pass.recipe.network.dimensions() == 2;
        let is_patch_based = pass.recipe.is_patch_based();
        if shape.contains(&0) || axis > 1 || (flat && axis != 0) {
            return Err(Error::internal(format!(
                "planes along axis {axis} of an input of {shape:?} voxels"
            )));
        }
        let mode = match is_patch_based {
            false => Mode::Slices,
            true => Mode::Patches(Box::new(Patches::new(&pass, shape, axis)?)),
        };
        Ok(Self {
            pass,
            axis,
            shape,
            mode,
            planes: VecDeque::new(),
            first: 0,
            finished: 0,
            spare: Vec::new(),
        })
    }

    pub fn count(&self) -> usize {
        self.shape[self.axis]
    }

    /// Logits of the planes in `range`. Its start must not decrease from call to call; earlier planes are released.
    ///
    /// # Shapes
    /// output: (structure, z, y, x), `range` along the axis
    pub fn take(&mut self, range: Range<usize>) -> Result<Array4<f32>> {
        let before = self.padding_before()[self.axis];
        if range.start + before < self.first || range.end > self.count() || range.is_empty() {
            return Err(Error::internal(format!(
                "planes {range:?} of {} with padding {before}, but those before {} have been released",
                self.count(),
                self.first
            )));
        }
        let range = range.start + before..range.end + before;
        let computing = self.finished < range.end;
        while self.finished < range.end {
            self.release(range.start.min(self.finished));
            match &self.mode {
                Mode::Slices => self.next_slices()?,
                Mode::Patches(_) => self.next_patches()?,
            }
        }
        if computing && matches!(self.mode, Mode::Patches(_)) {
            // The next step needs the memory that the network used; there are few layers, so this is cheap.
            self.pass.inference.compute().release_host_memory()?;
        }
        self.release(range.start);
        self.gathered(range)
    }

    /// Padding before the input along z, y, x.
    fn padding_before(&self) -> [usize; 3] {
        match &self.mode {
            Mode::Slices => [0; 3],
            Mode::Patches(patches) => patches.grid.pad_before,
        }
    }

    /// Logits of the whole input: (structure, z, y, x).
    pub fn all(mut self) -> Result<Array4<f32>> {
        let mut result: Option<Array4<f32>> = None;
        let [z, y, x] = self.shape;
        // Plane by plane, so that sums and logits are never both complete in memory.
        for plane in 0..self.count() {
            let logits = self.take(plane..plane + 1)?;
            let result = result.get_or_insert_with(|| Array4::zeros((logits.dim().0, z, y, x)));
            result
                .slice_axis_mut(Axis(self.axis + 1), (plane..plane + 1).into())
                .assign(&logits);
        }
        result.ok_or_else(|| Error::internal("an input without planes"))
    }

    fn release(&mut self, before: usize) {
        while self.first < before && !self.planes.is_empty() {
            self.first += 1;
            let plane = self.planes.pop_front();
            if let Mode::Patches(_) = self.mode {
                self.spare.extend(plane);
            }
        }
    }

    /// Computes one batch of slices; on a single-threaded engine, one batch per core.
    fn next_slices(&mut self) -> Result<()> {
        let pass = &self.pass;
        let batch = pass.batch;
        let parallel = match pass.inference.compute().runs_batches_in_parallel() {
            true => rayon::current_num_threads(),
            false => 1,
        };
        let end = (self.finished + batch * parallel).min(self.count());
        let slices: Vec<usize> = (self.finished..end).collect();
        let batches: Vec<&[usize]> = slices.chunks(batch).collect();
        let planes = |slices: &&[usize]| pass.slices(slices);
        let found: Vec<Vec<Array3<f32>>> = match parallel {
            1 => batches.iter().map(planes).collect::<Result<_>>()?,
            _ => batches.par_iter().map(planes).collect::<Result<_>>()?,
        };
        self.planes.extend(found.into_iter().flatten());
        self.finished = end;
        Ok(())
    }

    /// Computes one batch of patches and adds it to the planes that it overlaps.
    fn next_patches(&mut self) -> Result<()> {
        let Mode::Patches(patches) = &mut self.mode else {
            return Err(Error::internal("patches from a network on slices"));
        };
        let until = (patches.done + self.pass.batch).min(patches.corners.len());
        let corners = &patches.corners[patches.done..until];
        let (values, shape) = self.pass.patches(patches, corners)?;
        let per_patch: usize = shape[1..].iter().product();
        let patch = (shape[1], shape[2], shape[3], shape[4]);
        let placed = corners.iter().zip(values.chunks_exact(per_patch));
        let placed: Vec<([usize; 3], ArrayView4<f32>)> = placed
            .map(|(corner, values)| Ok((*corner, ArrayView4::from_shape(patch, values)?)))
            .collect::<std::result::Result<_, ndarray::ShapeError>>()
            .map_err(|error| Error::internal(error.to_string()))?;
        let grid = &patches.grid;
        let [b, c] = other_axes(self.axis);
        let size = (shape[1], grid.padded[b], grid.padded[c]);
        let end = corners.iter().map(|corner| corner[self.axis]).max();
        let end = end.unwrap_or(0) + grid.patch[self.axis];
        while self.first + self.planes.len() < end {
            let plane = match self.spare.pop() {
                Some(mut plane) => {
                    plane.fill(0.0);
                    plane
                }
                None => Array3::zeros(size),
            };
            self.planes.push_back(plane);
        }
        let (first, axis) = (self.first, self.axis);
        self.planes
            .par_iter_mut()
            .enumerate()
            .for_each(|(at, plane)| grid.add(plane.view_mut(), axis, first + at, &placed));
        patches.done = until;
        self.finished = match patches.corners.get(until) {
            Some(corner) => corner[self.axis],
            None => grid.padded[self.axis],
        };
        (self.pass.on_pieces)(corners.len())
    }

    /// The logits of finished planes as one array.
    fn gathered(&self, range: Range<usize>) -> Result<Array4<f32>> {
        let [b, c] = other_axes(self.axis);
        let before = self.padding_before();
        let inside = [b, c].map(|axis| before[axis]..before[axis] + self.shape[axis]);
        let maps = match (&self.mode, self.planes.front()) {
            (Mode::Patches(patches), _) if patches.features.is_some() => {
                let head = patches.features.as_ref().map(|(_, head)| head);
                head.map_or(0, |head| head.biases.len())
            }
            (_, Some(plane)) => plane.dim().0,
            (_, None) => 0,
        };
        let mut shape = [maps, self.shape[0], self.shape[1], self.shape[2]];
        shape[self.axis + 1] = range.len();
        let mut result = Array4::<f32>::zeros(shape);
        result
            .axis_iter_mut(Axis(self.axis + 1))
            .into_par_iter()
            .zip(range)
            .try_for_each(|(to, index)| {
                let plane = self.planes.get(index - self.first);
                let plane = plane.ok_or_else(|| Error::internal("a plane has been released"))?;
                match &self.mode {
                    Mode::Slices => assign(to, plane, &inside),
                    Mode::Patches(patches) => {
                        let mut plane = plane.clone();
                        let at = patches.coverage[self.axis][index];
                        divide(&mut plane, at, [&patches.coverage[b], &patches.coverage[c]]);
                        let plane = match &patches.features {
                            Some((_, head)) => logits_of(plane, head)?,
                            None => plane,
                        };
                        assign(to, &plane, &inside);
                    }
                }
                Ok::<(), Error>(())
            })?;
        Ok(result)
    }
}

/// A plane without its padding.
fn assign(mut to: ArrayViewMut3<f32>, plane: &Array3<f32>, [rows, columns]: &[Range<usize>; 2]) {
    to.assign(&plane.slice(s![.., rows.clone(), columns.clone()]));
}

/// The head's logits of a plane of features: (structure, …).
fn logits_of(plane: Array3<f32>, head: &Head) -> Result<Array3<f32>> {
    let internal = |error: ndarray::ShapeError| Error::internal(error.to_string());
    let (features, height, width) = plane.dim();
    let flat: Array2<f32> = plane
        .into_shape_with_order((features, height * width))
        .map_err(internal)?;
    let mut logits = head.weights.dot(&flat);
    for (mut logits, bias) in logits.outer_iter_mut().zip(&head.biases) {
        logits += *bias;
    }
    logits
        .into_shape_with_order((head.biases.len(), height, width))
        .map_err(internal)
}

impl Patches {
    fn new(pass: &Pass, shape: [usize; 3], axis: usize) -> Result<Self> {
        let grid = PatchGrid::new(pass.recipe, shape);
        Ok(Self {
            coverage: grid.coverage(),
            corners: grid.corners(axis),
            grid,
            done: 0,
            features: match pass.mirroring.views() {
                1 => pass.inference.with_features()?,
                // In mirrored views the features belong to the structures of the other side.
                _ => None,
            },
        })
    }
}

impl Pass<'_> {
    /// Logits of a batch of slices, one plane each: (structure, y, x), padded.
    fn slices(&self, slices: &[usize]) -> Result<Vec<Array3<f32>>> {
        let (channels, _, height, width) = self.input.dim();
        let neighbours = self.recipe.network.neighbours();
        let [_, along_y, along_x] = self.recipe.network.multiple();
        let size = [padded_size(height, along_y), padded_size(width, along_x)];
        let depth = 2 * neighbours + 1;
        let shape = [slices.len(), channels, depth, size[0], size[1]];
        let batch = slice_batch(self.input, slices, neighbours, size);
        let (values, [_, maps, _, height, width]) =
            self.logits_of_batch(self.inference, batch, shape)?;
        (self.on_pieces)(slices.len())?;
        let planes = values.chunks_exact(maps * height * width);
        planes
            .map(|plane| Array3::from_shape_vec((maps, height, width), plane.to_vec()))
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::internal(error.to_string()))
    }

    /// Logits or features of a batch of patches: (patch, map, z, y, x), flattened, and that shape.
    fn patches(&self, patches: &Patches, corners: &[[usize; 3]]) -> Result<Logits> {
        let [z, y, x] = patches.grid.patch;
        let shape = [corners.len(), self.input.dim().0, z, y, x];
        let batch = patches.grid.patches_at(self.input, corners);
        let inference = match &patches.features {
            Some((features, _)) => features,
            None => self.inference,
        };
        self.logits_of_batch(inference, batch, shape)
    }

    fn logits_of_batch(
        &self,
        inference: &Inference,
        batch: Vec<f32>,
        shape: [usize; 5],
    ) -> Result<Logits> {
        self.mirroring.mean_of_views(batch, shape, |batch, shape| {
            inference.logits(batch, shape, self.only)
        })
    }
}
