//! Augmentation of training patches in the axial plane: cut, turned and scaled in one resampling from the
//! whole slice, so that tissue and not padding comes in at the border, then changed in intensity. A seed
//! per patch decides everything.

mod config;
mod edge;
pub mod intensity;
mod placement;

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use edge::Edge;

pub use config::{Augmentation, FlipAxis};
pub use placement::{Placement, Turn};

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
    /// Fills a patch and its labels from a slice, changed as `seed` decides. Linear interpolation, labels
    /// by nearest neighbour; outside the slice 0. The patch may be larger than the cut; it goes on at the
    /// high end. Image channels stay within [0, 1].
    ///
    /// # Shapes
    /// - `slice`: (channel, y, x) in [0, 1]; `labels`: (y, x)
    /// - `patch`: (channel, patch y, patch x); `patch_labels`: (patch y, patch x)
    pub fn fill(
        &self,
        cut: &Cut,
        seed: u64,
        (slice, labels): (ArrayView3<f32>, ArrayView2<u16>),
        (mut patch, patch_labels): (ArrayViewMut3<f32>, ArrayViewMut2<u16>),
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let turn = self.draw_turn(&mut rng);
        // A stream of its own: where it is off, nothing else changes.
        rng.set_stream(u64::MAX);
        rng.set_word_pos(0);
        let edge = drawn(self.field_of_view_probability, [0.0, 1.0], &mut rng)
            .map(|_| Edge::drawn(patch.dim().1, patch.dim().2, &mut rng));
        let placement = Placement::new(cut.corner, cut.size, &turn, cut.spacing_mm);
        placement.sample_nearest(labels, patch_labels);
        let channels = slice.axis_iter(Axis(0)).zip(patch.axis_iter_mut(Axis(0)));
        for (index, (from, mut to)) in channels.enumerate() {
            placement.sample_linear(from, to.view_mut());
            if index >= cut.image_channels {
                continue;
            }
            let width = to.len_of(Axis(1));
            // Own numbers for each channel: what happens to one shifts nothing in the next.
            rng.set_stream(index as u64 + 1);
            rng.set_word_pos(0);
            match to.as_slice_mut() {
                Some(plane) => self.change(plane, width, &mut rng),
                None => {
                    let mut plane: Vec<f32> = to.iter().copied().collect();
                    self.change(&mut plane, width, &mut rng);
                    to.iter_mut().zip(plane).for_each(|(to, v)| *to = v);
                }
            }
            if let Some(edge) = &edge {
                edge.clear(to);
            }
        }
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

    /// The intensity changes in nnU-Net's order.
    fn change(&self, plane: &mut [f32], width: usize, rng: &mut ChaCha8Rng) {
        if let Some(sd) = drawn(self.noise_probability, self.noise_sd, rng) {
            intensity::noise(plane, sd as f32, rng);
        }
        if let Some(sigma) = drawn(self.blur_probability, self.blur_sigma_pixels, rng) {
            intensity::blur(plane, width, sigma);
        }
        if let Some(factor) = drawn(self.brightness_probability, self.brightness, rng) {
            intensity::brightness(plane, factor as f32);
        }
        if let Some(factor) = drawn(self.contrast_probability, self.contrast, rng) {
            intensity::contrast(plane, factor as f32);
        }
        if let Some(kept) = drawn(self.low_resolution_probability, self.low_resolution, rng) {
            intensity::low_resolution(plane, width, kept);
        }
        if let Some(exponent) = drawn(self.inverted_gamma_probability, self.gamma, rng) {
            intensity::gamma(plane, exponent as f32, true);
        }
        if let Some(exponent) = drawn(self.gamma_probability, self.gamma, rng) {
            intensity::gamma(plane, exponent as f32, false);
        }
        // No scan shows anything beyond its window's ends.
        plane.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
    }
}

/// A number of the range, with the probability given.
fn drawn(probability: f64, [low, high]: [f64; 2], rng: &mut ChaCha8Rng) -> Option<f64> {
    (rng.random::<f64>() < probability).then(|| low + (high - low) * rng.random::<f64>())
}
