//! Augmentation of patches of volumes: turned, scaled and mirrored in one resampling from the whole volume,
//! then changed in intensity. A seed per patch decides everything.

use ndarray::{ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::edge::SpaceEdge;
use super::space::{SpacePlacement, SpaceTurn};
use super::{Augmentation, FlipAxis, drawn};

/// The part of a volume that a patch shows when nothing is turned. Axes are (z, y, x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VolumeCut {
    pub corner: [usize; 3],
    /// The middle of this part is what a turn is about.
    pub size: [usize; 3],
    pub spacing_mm: [f64; 3],
    /// How many of the first channels are images; the others (stage 1's probabilities) only move.
    pub image_channels: usize,
}

impl Augmentation {
    /// Fills a patch and its labels from a volume, as [`Augmentation::fill`] does from a slice: trilinear
    /// interpolation, turns about all axes, smoothing and low resolution along all axes.
    ///
    /// # Shapes
    /// - `volume`: (channel, z, y, x) in [0, 1]; `labels`: (z, y, x)
    /// - `patch`, `patch_labels`: the same of the patch
    pub fn fill_volume(
        &self,
        cut: &VolumeCut,
        seed: u64,
        (volume, labels): (ArrayView4<f32>, ArrayView3<u16>),
        (mut patch, patch_labels): (ArrayViewMut4<f32>, ArrayViewMut3<u16>),
    ) -> SpaceTurn {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let turn = self.draw_space_turn(&mut rng);
        // A stream of its own: where it is off, nothing else changes.
        rng.set_stream(u64::MAX);
        rng.set_word_pos(0);
        let (_, depth, height, width) = patch.dim();
        let edge = drawn(self.field_of_view_probability, [0.0, 1.0], &mut rng)
            .map(|_| SpaceEdge::drawn([depth, height, width], &mut rng));
        let placement = SpacePlacement::new(cut.corner, cut.size, &turn, cut.spacing_mm);
        placement.sample_nearest(labels, patch_labels);
        placement.sample_linear(volume, patch.view_mut());
        let channels = patch.axis_iter_mut(Axis(0)).take(cut.image_channels);
        for (index, mut channel) in channels.enumerate() {
            self.change_channel(index, &mut channel, true, &mut rng);
            if let Some(edge) = &edge {
                edge.clear(channel);
            }
        }
        turn
    }

    fn draw_space_turn(&self, rng: &mut ChaCha8Rng) -> SpaceTurn {
        let mut turn = SpaceTurn::NONE;
        if rng.random::<f64>() < self.rotation_probability {
            let limits = [self.rotation_degrees, self.tilt_degrees, self.tilt_degrees];
            turn.degrees = limits.map(|limit| limit * (2.0 * rng.random::<f64>() - 1.0));
        }
        if let Some(log) = drawn(self.scale_probability, self.scale.map(f64::ln), rng) {
            turn.scale = log.exp();
        }
        let axes = [FlipAxis::Z, FlipAxis::Y, FlipAxis::X];
        for (axis, flipped) in axes.iter().zip(&mut turn.flip) {
            *flipped = self.flip_axes.contains(axis) && rng.random::<bool>();
        }
        turn
    }
}
