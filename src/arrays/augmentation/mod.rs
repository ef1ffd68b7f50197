//! Augmentation of training patches in the axial plane: cut, turned and scaled in one resampling from the
//! whole slice, so that tissue and not padding comes in at the border, then changed in intensity. A seed
//! per patch decides everything.

mod config;
mod edge;
pub mod intensity;
mod placement;
mod space;
mod volume;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use edge::Edge;

pub use config::{Augmentation, FlipAxis};
pub use placement::{Placement, Turn};
pub use space::{SpacePlacement, SpaceTurn};
pub use volume::VolumeCut;

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

impl Augmentation {
    /// Fills a patch and its labels from a slice and its neighbours, changed as `seed` decides, and says how
    /// it was turned. Linear interpolation, labels by nearest neighbour; outside the slice 0. The patch may
    /// be larger than the cut; it goes on at the high end. Image channels stay within [0, 1]; what happens to
    /// one happens to all its slices.
    ///
    /// # Shapes
    /// - `slices`: each (channel, y, x) in [0, 1]; `labels`: (y, x)
    /// - `patch`: (channel, slice, patch y, patch x); `patch_labels`: (patch y, patch x)
    pub fn fill(
        &self,
        cut: &Cut,
        seed: u64,
        (slices, labels): (&[ArrayView3<f32>], ArrayView2<u16>),
        (mut patch, patch_labels): (ArrayViewMut4<f32>, ArrayViewMut2<u16>),
    ) -> Turn {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let turn = self.draw_turn(&mut rng);
        // A stream of its own: where it is off, nothing else changes.
        rng.set_stream(u64::MAX);
        rng.set_word_pos(0);
        let (_, _, height, width) = patch.dim();
        let edge = drawn(self.field_of_view_probability, [0.0, 1.0], &mut rng)
            .map(|_| Edge::drawn(height, width, &mut rng));
        let placement = Placement::new(cut.corner, cut.size, &turn, cut.spacing_mm);
        placement.sample_nearest(labels, patch_labels);
        for (index, mut stack) in patch.axis_iter_mut(Axis(0)).enumerate() {
            for (from, to) in slices.iter().zip(stack.axis_iter_mut(Axis(0))) {
                placement.sample_linear(from.index_axis(Axis(0), index), to);
            }
            if index >= cut.image_channels {
                continue;
            }
            self.change_channel(index, &mut stack, false, &mut rng);
            if let Some(edge) = &edge {
                stack.outer_iter_mut().for_each(|plane| edge.clear(plane));
            }
        }
        turn
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
        stack.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    }
}

/// A number of the range, with the probability given.
fn drawn(probability: f64, [low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> Option<f64> {
    (rng.random::<f64>() < probability).then(|| low + (high - low) * rng.random::<f64>())
}
