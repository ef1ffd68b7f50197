//! Augmentation of patches of volumes: turned, scaled, mirrored and deformed in one resampling from the whole
//! volume, then changed in intensity. A seed per patch decides everything.

use ndarray::{Array3, ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::change::{to_shares, to_values};
use crate::config::{Augmentation, FlipAxis};
use crate::draw::drawn;
use crate::edge::SpaceEdge;
use crate::hounsfield::Hounsfield;
use crate::space::{SpacePlacement, SpaceTurn};
use ctseg_image::preprocess::normalisation::Scaling;

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

/// What patches are cut from.
pub struct VolumeSource<'a> {
    /// (channel, z, y, x)
    pub channels: ArrayView4<'a, f32>,
    /// (z, y, x)
    pub labels: ArrayView3<'a, u16>,
    /// For changes in Hounsfield units, which there are none of without it: (z, y, x).
    pub hu: Option<Hounsfield<ArrayView3<'a, f32>>>,
    /// Of the image channels, in their order; one without is from 0 to 1. Needed with `hu`.
    pub scalings: &'a [Scaling],
}

impl Augmentation {
    /// Fills a patch and its labels from a volume, as [`Augmentation::fill`] does from a slice: trilinear
    /// interpolation, turns about all axes, smoothing and low resolution along all axes.
    ///
    /// # Shapes
    /// - `patch`: (channel, z, y, x) and `patch_labels`: (z, y, x) of the patch
    pub fn fill_volume(
        &self,
        cut: &VolumeCut,
        seed: u64,
        source: &VolumeSource,
        (mut patch, patch_labels): (ArrayViewMut4<f32>, ArrayViewMut3<u16>),
    ) -> SpaceTurn {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let turn = self.draw_space_turn(&mut rng);
        let shape = {
            let (_, depth, height, width) = patch.dim();
            [depth, height, width]
        };
        let edge = self
            .ends_the_view(&mut rng)
            .then(|| SpaceEdge::drawn(shape, &mut rng));
        let field = self.draw_field(shape, cut.spacing_mm, &mut rng);
        let hu = source.hu.as_ref().and_then(|hu| {
            let change = self.draw_hu_change(shape, cut.spacing_mm, &mut rng)?;
            Some((hu, change, Array3::zeros(shape)))
        });
        let placement = SpacePlacement::new(cut.corner, cut.size, &turn, cut.spacing_mm);
        // Where Hounsfield units are changed, images are windows of those.
        let skipped = if hu.is_some() { cut.image_channels } else { 0 };
        let from = source.channels.outer_iter().skip(skipped);
        let mut channels: Vec<_> = from.zip(patch.outer_iter_mut().skip(skipped)).collect();
        let labels = (source.labels, patch_labels);
        match hu {
            Some((hu, change, mut values)) => {
                channels.push((hu.above.view(), values.view_mut()));
                placement.sample(field.as_ref(), channels, labels);
                change.shown(
                    &mut values,
                    hu.zero_hu,
                    source.scalings,
                    patch.view_mut(),
                    false,
                );
            }
            None => {
                placement.sample(field.as_ref(), channels, labels);
                to_shares(source.scalings, patch.view_mut());
            }
        }
        let boxes = self.draw_boxes(shape, &mut rng);
        let images = patch.outer_iter_mut().take(cut.image_channels);
        for (index, mut channel) in images.enumerate() {
            self.change_channel(index, &mut channel, true, &mut rng);
            if let Some(boxes) = &boxes {
                boxes.fill(channel.view_mut(), false);
            }
            if let Some(edge) = &edge {
                edge.clear(channel);
            }
        }
        to_values(source.scalings, patch);
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
