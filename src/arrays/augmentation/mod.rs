//! Augmentation of training patches in the axial plane: cut, turned, scaled and deformed in one resampling from
//! the whole slice, so that tissue and not padding comes in at the border, then changed in intensity. A seed
//! per patch decides everything, and every kind of change draws from a stream of its own: switched on or off, it
//! changes nothing about the others.

mod config;
mod dropout;
mod edge;
mod elastic;
mod fast;
mod hounsfield;
pub mod intensity;
mod placement;
mod space;
mod streaks;
mod taps;
mod volume;
mod wide;

use ndarray::{Array3, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::arrays::normalisation::Scaling;
use edge::Edge;

pub use config::{Augmentation, FlipAxis};
pub use elastic::Field;
pub use hounsfield::Hounsfield;
pub use placement::{Placement, Turn};
pub use space::{SpacePlacement, SpaceTurn};
pub use volume::{VolumeCut, VolumeSource};

const ELASTIC_STREAM: u64 = u64::MAX - 2;

/// The part of a slice that a patch shows when nothing is turned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// First row and column.
    pub corner: [usize; 2],
    /// Rows and columns; the middle of this part is what a turn is about.
    pub size: [usize; 2],
    /// Distance of neighbouring pixels along (y, x).
    pub spacing_mm: [f64; 2],
    /// How many of the first channels are images; the others (stage 1's probabilities) only move.
    pub image_channels: usize,
}

/// What patches are cut from.
pub struct SliceSource<'a> {
    /// The slice and its neighbours from the lowest up, each (channel, y, x).
    pub slices: &'a [ArrayView3<'a, f32>],
    /// (y, x)
    pub labels: ArrayView2<'a, u16>,
    /// For changes in Hounsfield units, which there are none of without it: the same slices, each (y, x).
    pub hu: Option<Hounsfield<Vec<ArrayView2<'a, f32>>>>,
    /// Of the image channels, in their order; one without is from 0 to 1. Needed with `hu`.
    pub scalings: &'a [Scaling],
}

impl Augmentation {
    /// Fills a patch and its labels from a slice and its neighbours, changed as `seed` decides, and says how
    /// it was turned. Linear interpolation, labels by nearest neighbour; outside the slice 0. The patch may
    /// be larger than the cut; it goes on at the high end. Changes in intensity are those of shares of the
    /// channels' windows, which they never leave; what happens to one channel happens to all its slices.
    ///
    /// # Shapes
    /// - `patch`: (channel, slice, patch y, patch x); `patch_labels`: (patch y, patch x)
    pub fn fill(
        &self,
        cut: &Cut,
        seed: u64,
        source: &SliceSource,
        (mut patch, patch_labels): (ArrayViewMut4<f32>, ArrayViewMut2<u16>),
    ) -> Turn {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let turn = self.draw_turn(&mut rng);
        let (_, depth, height, width) = patch.dim();
        let edge = self
            .ends_the_view(&mut rng)
            .then(|| Edge::drawn(height, width, &mut rng));
        let field = self.draw_field([height, width], cut.spacing_mm, &mut rng);
        let [down_mm, along_mm] = cut.spacing_mm;
        let hu = source.hu.as_ref().and_then(|hu| {
            let shape = [depth, height, width];
            let change = self.draw_hu_change(shape, [1.0, down_mm, along_mm], &mut rng)?;
            Some((hu, change, Array3::zeros(shape)))
        });
        let placement = Placement::new(cut.corner, cut.size, &turn, cut.spacing_mm);
        // Where Hounsfield units are changed, images are windows of those.
        let skipped = if hu.is_some() { cut.image_channels } else { 0 };
        let mut stacks: Vec<ArrayViewMut3<f32>> = patch.outer_iter_mut().skip(skipped).collect();
        let mut planes = Vec::new();
        for (index, stack) in stacks.iter_mut().enumerate() {
            let from = source.slices.iter();
            let from = from.map(|slice| slice.index_axis(Axis(0), skipped + index));
            planes.extend(from.zip(stack.outer_iter_mut()));
        }
        let labels = (source.labels, patch_labels);
        match hu {
            Some((hu, change, mut values)) => {
                let from = hu.above.iter().map(|slice| slice.view());
                planes.extend(from.zip(values.outer_iter_mut()));
                placement.sample(field.as_ref(), planes, labels);
                change.shown(
                    &mut values,
                    hu.zero_hu,
                    source.scalings,
                    patch.view_mut(),
                    true,
                );
            }
            None => {
                placement.sample(field.as_ref(), planes, labels);
                to_shares(source.scalings, patch.view_mut());
            }
        }
        let boxes = self.draw_boxes([depth, height, width], &mut rng);
        let clear = |mut stack: ArrayViewMut3<f32>| {
            if let Some(edge) = &edge {
                stack.outer_iter_mut().for_each(|plane| edge.clear(plane));
            }
        };
        let images = patch.outer_iter_mut().take(cut.image_channels);
        for (index, mut stack) in images.enumerate() {
            self.change_channel(index, &mut stack, false, &mut rng);
            if let Some(boxes) = &boxes {
                boxes.fill(stack.view_mut(), true);
            }
            clear(stack);
        }
        to_values(source.scalings, patch);
        turn
    }

    /// Whether the field of view ends within a patch.
    fn ends_the_view(&self, rng: &mut ChaCha8Rng) -> bool {
        rng.set_stream(u64::MAX);
        rng.set_word_pos(0);
        drawn(self.field_of_view_probability, [0.0, 1.0], rng).is_some()
    }

    /// The displacement of a patch of `size` voxels, if it is deformed.
    fn draw_field<const D: usize>(
        &self,
        size: [usize; D],
        spacing_mm: [f64; D],
        rng: &mut ChaCha8Rng,
    ) -> Option<Field> {
        rng.set_stream(ELASTIC_STREAM);
        rng.set_word_pos(0);
        let sigma_mm = drawn(self.elastic_probability, self.elastic_sigma_mm, rng)?;
        let [least, most] = self.elastic_magnitude_mm;
        let magnitude_mm = least + (most - least) * rng.random::<f64>();
        Some(Field::drawn(
            size,
            spacing_mm,
            [sigma_mm, magnitude_mm],
            rng,
        ))
    }

    fn draw_turn(&self, rng: &mut ChaCha8Rng) -> Turn {
        let mut turn = Turn::NONE;
        let limit = self.rotation_degrees;
        if let Some(degrees) = drawn(self.rotation_probability, [-limit, limit], rng) {
            turn.degrees = degrees;
        }
        if let Some(log) = drawn(self.scale_probability, self.scale.map(f64::ln), rng) {
            turn.scale = log.exp();
        }
        for (axis, flipped) in [FlipAxis::Y, FlipAxis::X].iter().zip(&mut turn.flip) {
            *flipped = self.flip_axes.contains(axis) && rng.random::<bool>();
        }
        turn
    }

    /// The intensity changes of channel `index`, planes (y, x) one after the other.
    fn change_channel(
        &self,
        index: usize,
        stack: &mut ArrayViewMut3<f32>,
        is_volume: bool,
        rng: &mut ChaCha8Rng,
    ) {
        // Own numbers for each channel: what happens to one shifts nothing in the next.
        rng.set_stream(index as u64 + 1);
        rng.set_word_pos(0);
        let (_, height, width) = stack.dim();
        match stack.as_slice_mut() {
            Some(values) => self.change(values, [height, width], is_volume, rng),
            None => {
                let mut values: Vec<f32> = stack.iter().copied().collect();
                self.change(&mut values, [height, width], is_volume, rng);
                stack.iter_mut().zip(values).for_each(|(to, v)| *to = v);
            }
        }
    }

    /// The intensity changes in nnU-Net's order, of planes of `size` (y, x) one after the other; those of a
    /// volume are smoothed and thinned out across the planes too.
    fn change(
        &self,
        stack: &mut [f32],
        [height, width]: [usize; 2],
        is_volume: bool,
        rng: &mut ChaCha8Rng,
    ) {
        let pixels = (height * width).max(1);
        if let Some(sd) = drawn(self.noise_probability, self.noise_sd, rng) {
            intensity::noise(stack, sd as f32, rng);
        }
        if let Some(sigma) = drawn(self.blur_probability, self.blur_sigma_pixels, rng) {
            let planes = stack.chunks_exact_mut(pixels);
            planes.for_each(|plane| intensity::blur(plane, width, sigma));
            if is_volume {
                intensity::blur_depth(stack, pixels, sigma);
            }
        }
        if let Some(factor) = drawn(self.brightness_probability, self.brightness, rng) {
            intensity::brightness(stack, factor as f32);
        }
        if let Some(factor) = drawn(self.contrast_probability, self.contrast, rng) {
            intensity::contrast(stack, factor as f32);
        }
        if let Some(kept) = drawn(self.low_resolution_probability, self.low_resolution, rng) {
            let planes = stack.chunks_exact_mut(pixels);
            planes.for_each(|plane| intensity::low_resolution(plane, width, kept));
            if is_volume {
                intensity::low_resolution_depth(stack, pixels, kept);
            }
        }
        if let Some(exponent) = drawn(self.inverted_gamma_probability, self.gamma, rng) {
            intensity::gamma(stack, exponent as f32, true);
        }
        if let Some(exponent) = drawn(self.gamma_probability, self.gamma, rng) {
            intensity::gamma(stack, exponent as f32, false);
        }
        // No scan shows anything beyond its window's ends.
        intensity::clamp(stack);
    }
}

/// Makes of a patch's values (channel, z, y, x) shares of their windows, where they are not.
fn to_shares(scalings: &[Scaling], mut patch: ArrayViewMut4<f32>) {
    for (mut channel, scaling) in patch.outer_iter_mut().zip(scalings) {
        if !scaling.is_plain() {
            channel.mapv_inplace(|value| scaling.share(value));
        }
    }
}

/// And values again.
fn to_values(scalings: &[Scaling], mut patch: ArrayViewMut4<f32>) {
    for (mut channel, scaling) in patch.outer_iter_mut().zip(scalings) {
        if !scaling.is_plain() {
            channel.mapv_inplace(|share| scaling.of_share(share));
        }
    }
}

/// A number of the range, with the probability given.
fn drawn(probability: f64, [low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> Option<f64> {
    (rng.random::<f64>() < probability).then(|| low + (high - low) * rng.random::<f64>())
}
