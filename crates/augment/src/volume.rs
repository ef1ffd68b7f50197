//! Augmentation of patches of volumes: rotated, scaled, flipped and deformed in one resampling from the whole volume,
//! then changed in intensity. One seed per patch determines everything.

use ndarray::{Array3, ArrayView3, ArrayView4, ArrayViewMut3, ArrayViewMut4};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::affine_grid_3d::{AffineGrid3d, AffineParams3d};
use crate::common::{to_values, to_window_fractions};
use crate::config::{Augmentation, FlipAxis};
use crate::draw::drawn;
use crate::field_of_view::ViewPlane;
use crate::hounsfield::Hounsfield;
use ctseg_image::preprocess::normalisation::Scaling;

/// The part of a volume that a patch shows if it is not transformed. Axes are (z, y, x).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VolumeCrop {
    pub corner: [usize; 3],
    /// Transforms are about its centre.
    pub size: [usize; 3],
    pub spacing_mm: [f64; 3],
    /// Number of leading channels that are images; the others (stage-1 probabilities) are only moved.
    pub image_channels: usize,
}

/// What patches are sampled from.
pub struct VolumeSource<'a> {
    /// (channel, z, y, x)
    pub channels: ArrayView4<'a, f32>,
    /// (z, y, x)
    pub labels: ArrayView3<'a, u16>,
    /// The same volume in Hounsfield units, (z, y, x). Without it there are no changes in Hounsfield units.
    pub hu: Option<Hounsfield<ArrayView3<'a, f32>>>,
    /// One per image channel, in order; channels without one are in [0, 1]. Required with `hu`.
    pub scalings: &'a [Scaling],
}

impl Augmentation {
    /// Fills a patch and its labels from a volume, as [`Augmentation::fill`] does from a slice: trilinear
    /// interpolation, rotation about all axes, blur and low resolution along all axes.
    ///
    /// # Shapes
    /// - `patch`: (channel, z, y, x) and `patch_labels`: (z, y, x) of the patch
    pub fn fill_volume(
        &self,
        crop: &VolumeCrop,
        seed: u64,
        source: &VolumeSource,
        (mut patch, patch_labels): (ArrayViewMut4<f32>, ArrayViewMut3<u16>),
    ) -> AffineParams3d {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let affine = self.draw_affine_3d(&mut rng);
        let shape = {
            let (_, depth, height, width) = patch.dim();
            [depth, height, width]
        };
        let edge = self
            .truncates_view(&mut rng)
            .then(|| ViewPlane::drawn(shape, &mut rng));
        let field = self.draw_field(shape, crop.spacing_mm, &mut rng);
        let hu = source.hu.as_ref().and_then(|hu| {
            let change = self.draw_hu_change(shape, crop.spacing_mm, &mut rng)?;
            Some((hu, change, Array3::zeros(shape)))
        });
        let grid = AffineGrid3d::new(crop.corner, crop.size, &affine, crop.spacing_mm);
        // If Hounsfield units are changed, the images are computed from them.
        let skipped = if hu.is_some() { crop.image_channels } else { 0 };
        let from = source.channels.outer_iter().skip(skipped);
        let mut channels: Vec<_> = from.zip(patch.outer_iter_mut().skip(skipped)).collect();
        let labels = (source.labels, patch_labels);
        match hu {
            Some((hu, change, mut values)) => {
                channels.push((hu.above.view(), values.view_mut()));
                grid.sample(field.as_ref(), channels, labels);
                change.apply(
                    &mut values,
                    hu.zero_hu,
                    source.scalings,
                    patch.view_mut(),
                    false,
                );
            }
            None => {
                grid.sample(field.as_ref(), channels, labels);
                to_window_fractions(source.scalings, patch.view_mut());
            }
        }
        let boxes = self.draw_boxes(shape, &mut rng);
        let images = patch.outer_iter_mut().take(crop.image_channels);
        for (index, mut channel) in images.enumerate() {
            self.augment_channel(index, &mut channel, true, &mut rng);
            if let Some(boxes) = &boxes {
                boxes.fill(channel.view_mut(), false);
            }
            if let Some(edge) = &edge {
                edge.clear(channel);
            }
        }
        to_values(source.scalings, patch);
        affine
    }

    fn draw_affine_3d(&self, rng: &mut ChaCha8Rng) -> AffineParams3d {
        let mut affine = AffineParams3d::NONE;
        if rng.random::<f64>() < self.rotation_probability {
            let limits = [self.rotation_degrees, self.tilt_degrees, self.tilt_degrees];
            affine.degrees = limits.map(|limit| limit * (2.0 * rng.random::<f64>() - 1.0));
        }
        if let Some(log) = drawn(self.scale_probability, self.scale.map(f64::ln), rng) {
            affine.scale = log.exp();
        }
        let axes = [FlipAxis::Z, FlipAxis::Y, FlipAxis::X];
        for (axis, flipped) in axes.iter().zip(&mut affine.flip) {
            *flipped = self.flip_axes.contains(axis) && rng.random::<bool>();
        }
        affine
    }
}
