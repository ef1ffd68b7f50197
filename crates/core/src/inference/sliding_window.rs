//! A network's output from one end of an input to the other: in memory are only the planes that are asked for, and
//! those that patches still reach.

use std::collections::VecDeque;
use std::ops::Range;

use ndarray::parallel::prelude::*;
use ndarray::{Array2, Array3, Array4, ArrayView4, ArrayViewMut3, Axis, s};

use super::patch_grid::{Lattice, beside, divide};
use super::test_time_augmentation::Mirroring;
use crate::recipe::Recipe;
use ctseg_base::{Error, Result};
use ctseg_engine::inference::{Head, Inference, Logits};
use ctseg_image::preprocess::channels::{padded_size, slice_batch};

/// Hears of the slices or patches that passed through a network; an error stops the work.
pub type OnPieces<'a> = dyn Fn(usize) -> Result<()> + Sync + 'a;

/// What passes through a network, and how.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    pub recipe: &'a Recipe,
    pub inference: &'a Inference,
    /// The network of one fold alone, instead of the mean of all.
    pub only: Option<usize>,
    /// (channel, z, y, x)
    pub input: ArrayView4<'a, f32>,
    /// Slices or patches that pass through a network at once.
    pub batch: usize,
    /// The mirror images that are looked at.
    pub mirroring: &'a Mirroring,
    pub on_pieces: &'a OnPieces<'a>,
}

/// The output of a [`Pass`], plane by plane.
pub struct Planes<'a> {
    pass: Pass<'a>,
    /// The axis of (z, y, x) that planes follow one another along.
    axis: usize,
    /// Sides of the input (z, y, x).
    shape: [usize; 3],
    way: Way,
    /// The planes of the padded input from `first` on, each (map, the two other axes): of patches, sums that are to be divided by the
    /// importance.
    planes: VecDeque<Array3<f32>>,
    first: usize,
    /// The plane from which on something is still missing.
    finished: usize,
    /// Memory of planes that are no longer needed.
    spare: Vec<Array3<f32>>,
}

/// How planes come about.
enum Way {
    /// Each from a slice of its own.
    Slices,
    Patches(Box<Patches>),
}

struct Patches {
    lattice: Lattice,
    coverage: [Vec<f32>; 3],
    corners: Vec<[usize; 3]>,
    /// How many of them are done.
    done: usize,
    /// Where features are added up in place of logits.
    features: Option<(Inference, Head)>,
}

/// The axis along which planes take the least memory: z for slices; for patches z or y (rows of patches lie along
/// x), whichever has the smaller layer.
pub fn best_axis(recipe: &Recipe, shape: [usize; 3]) -> usize {
    if recipe.network.dimensions() == 2 {
        return 0;
    }
    let lattice = Lattice::new(recipe, shape);
    match lattice.layer_voxels(0) <= lattice.layer_voxels(1) {
        true => 0,
        false => 1,
    }
}

impl<'a> Planes<'a> {
    /// Planes along `axis` of (z, y, x), see [`best_axis`]. Nothing is computed yet.
    pub fn new(pass: Pass<'a>, axis: usize) -> Result<Self> {
        let (_, depth, height, width) = pass.input.dim();
        let shape = [depth, height, width];
        let flat = pass.recipe.network.dimensions() == 2;
        let by_patches = pass.recipe.by_patches();
        if shape.contains(&0) || axis > 1 || (flat && axis != 0) {
            return Err(Error::invalid(format!(
                "internal: planes along axis {axis} of an input of {shape:?} voxels"
            )));
        }
        let way = match by_patches {
            false => Way::Slices,
            true => Way::Patches(Box::new(Patches::new(&pass, shape, axis)?)),
        };
        Ok(Self {
            pass,
            axis,
            shape,
            way,
            planes: VecDeque::new(),
            first: 0,
            finished: 0,
            spare: Vec::new(),
        })
    }

    /// How many planes there are.
    pub fn count(&self) -> usize {
        self.shape[self.axis]
    }

    /// Logits of the planes in `range`, whose start is never before that of the call before; what lies before it is
    /// forgotten.
    ///
    /// # Shapes
    /// output: (structure, z, y, x), `range` along the axis
    pub fn take(&mut self, range: Range<usize>) -> Result<Array4<f32>> {
        let before = self.before()[self.axis];
        if range.start + before < self.first || range.end > self.count() || range.is_empty() {
            return Err(Error::invalid(format!(
                "internal: planes {range:?} of {} after {before} where those before {} are gone",
                self.count(),
                self.first
            )));
        }
        let range = range.start + before..range.end + before;
        let computing = self.finished < range.end;
        while self.finished < range.end {
            self.forget(range.start.min(self.finished));
            match &self.way {
                Way::Slices => self.next_slices()?,
                Way::Patches(_) => self.next_patches()?,
            }
        }
        if computing && matches!(self.way, Way::Patches(_)) {
            // What comes next needs memory that is the network's no longer: layers are few.
            self.pass.inference.compute().release_host_memory()?;
        }
        self.forget(range.start);
        self.gathered(range)
    }

    /// How much padding lies before the input along z, y, x.
    fn before(&self) -> [usize; 3] {
        match &self.way {
            Way::Slices => [0; 3],
            Way::Patches(patches) => patches.lattice.before,
        }
    }

    /// Logits of the whole input: (structure, z, y, x).
    pub fn all(mut self) -> Result<Array4<f32>> {
        let mut result: Option<Array4<f32>> = None;
        let [z, y, x] = self.shape;
        // By and by, so that sums and logits are not whole in memory side by side.
        for plane in 0..self.count() {
            let logits = self.take(plane..plane + 1)?;
            let result = result.get_or_insert_with(|| Array4::zeros((logits.dim().0, z, y, x)));
            result
                .slice_axis_mut(Axis(self.axis + 1), (plane..plane + 1).into())
                .assign(&logits);
        }
        result.ok_or_else(|| Error::invalid("internal: an input without planes"))
    }

    fn forget(&mut self, before: usize) {
        while self.first < before && !self.planes.is_empty() {
            self.first += 1;
            let plane = self.planes.pop_front();
            if let Way::Patches(_) = self.way {
                self.spare.extend(plane);
            }
        }
    }

    /// One batch of slices; on an engine that computes on one core at a time, one batch for each core.
    fn next_slices(&mut self) -> Result<()> {
        let pass = &self.pass;
        let batch = pass.batch;
        let side_by_side = match pass.inference.compute().runs_side_by_side() {
            true => rayon::current_num_threads(),
            false => 1,
        };
        let end = (self.finished + batch * side_by_side).min(self.count());
        let slices: Vec<usize> = (self.finished..end).collect();
        let batches: Vec<&[usize]> = slices.chunks(batch).collect();
        let planes = |slices: &&[usize]| pass.slices(slices);
        let found: Vec<Vec<Array3<f32>>> = match side_by_side {
            1 => batches.iter().map(planes).collect::<Result<_>>()?,
            _ => batches.par_iter().map(planes).collect::<Result<_>>()?,
        };
        self.planes.extend(found.into_iter().flatten());
        self.finished = end;
        Ok(())
    }

    /// One batch of patches, added to the planes that it reaches.
    fn next_patches(&mut self) -> Result<()> {
        let Way::Patches(patches) = &mut self.way else {
            return Err(Error::invalid("internal: patches of a network on slices"));
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
            .map_err(|error| Error::invalid(format!("internal: {error}")))?;
        let lattice = &patches.lattice;
        let [b, c] = beside(self.axis);
        let size = (shape[1], lattice.padded[b], lattice.padded[c]);
        let reached = corners.iter().map(|corner| corner[self.axis]).max();
        let reached = reached.unwrap_or(0) + lattice.patch[self.axis];
        while self.first + self.planes.len() < reached {
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
            .for_each(|(at, plane)| lattice.add(plane.view_mut(), axis, first + at, &placed));
        patches.done = until;
        self.finished = match patches.corners.get(until) {
            Some(corner) => corner[self.axis],
            None => lattice.padded[self.axis],
        };
        (self.pass.on_pieces)(corners.len())
    }

    /// The logits of finished planes, side by side.
    fn gathered(&self, range: Range<usize>) -> Result<Array4<f32>> {
        let [b, c] = beside(self.axis);
        let before = self.before();
        let inside = [b, c].map(|axis| before[axis]..before[axis] + self.shape[axis]);
        let maps = match (&self.way, self.planes.front()) {
            (Way::Patches(patches), _) if patches.features.is_some() => {
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
                let plane = plane.ok_or_else(|| Error::invalid("internal: a plane is gone"))?;
                match &self.way {
                    Way::Slices => assign(to, plane, &inside),
                    Way::Patches(patches) => {
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
    let internal = |error: ndarray::ShapeError| Error::invalid(format!("internal: {error}"));
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
        let lattice = Lattice::new(pass.recipe, shape);
        Ok(Self {
            coverage: lattice.coverage(),
            corners: lattice.corners(axis),
            lattice,
            done: 0,
            features: match pass.mirroring.looks() {
                1 => pass.inference.of_features()?,
                // Mirrored, the same features belong to the structures of the other side.
                _ => None,
            },
        })
    }
}

impl Pass<'_> {
    /// Logits of some slices, one plane each: (structure, y, x), padded.
    fn slices(&self, slices: &[usize]) -> Result<Vec<Array3<f32>>> {
        let (channels, _, height, width) = self.input.dim();
        let neighbours = self.recipe.network.neighbours();
        let [_, along_y, along_x] = self.recipe.network.multiple();
        let size = [padded_size(height, along_y), padded_size(width, along_x)];
        let seen = 2 * neighbours + 1;
        let shape = [slices.len(), channels, seen, size[0], size[1]];
        let batch = slice_batch(self.input, slices, neighbours, size);
        let (values, [_, maps, _, height, width]) = self.looked(self.inference, batch, shape)?;
        (self.on_pieces)(slices.len())?;
        let planes = values.chunks_exact(maps * height * width);
        planes
            .map(|plane| Array3::from_shape_vec((maps, height, width), plane.to_vec()))
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::invalid(format!("internal: {error}")))
    }

    /// Logits or features of some patches: (patch, map, z, y, x), flattened, and that shape.
    fn patches(&self, patches: &Patches, corners: &[[usize; 3]]) -> Result<Logits> {
        let [z, y, x] = patches.lattice.patch;
        let shape = [corners.len(), self.input.dim().0, z, y, x];
        let batch = patches.lattice.patches_at(self.input, corners);
        let inference = match &patches.features {
            Some((features, _)) => features,
            None => self.inference,
        };
        self.looked(inference, batch, shape)
    }

    fn looked(&self, inference: &Inference, batch: Vec<f32>, shape: [usize; 5]) -> Result<Logits> {
        self.mirroring.mean_logits(batch, shape, |batch, shape| {
            inference.logits(batch, shape, self.only)
        })
    }
}
