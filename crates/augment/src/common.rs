//! What patches of slices and of volumes have in common: a truncated field of view, elastic deformation, intensity
//! changes.

use ndarray::{ArrayViewMut3, ArrayViewMut4};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::Augmentation;
use crate::draw::drawn;
use crate::elastic::DisplacementField;
use crate::intensity;
use ctseg_image::preprocess::normalisation::Scaling;

const ELASTIC_STREAM: u64 = u64::MAX - 2;

impl Augmentation {
    /// Whether the field of view ends within the patch.
    pub(super) fn truncates_view(&self, rng: &mut ChaCha8Rng) -> bool {
        rng.set_stream(u64::MAX);
        rng.set_word_pos(0);
        drawn(self.field_of_view_probability, [0.0, 1.0], rng).is_some()
    }

    /// The displacement field of a patch of `size` voxels; `None` if it is not deformed.
    pub(super) fn draw_field<const D: usize>(
        &self,
        size: [usize; D],
        spacing_mm: [f64; D],
        rng: &mut ChaCha8Rng,
    ) -> Option<DisplacementField> {
        rng.set_stream(ELASTIC_STREAM);
        rng.set_word_pos(0);
        let sigma_mm = drawn(self.elastic_probability, self.elastic_sigma_mm, rng)?;
        let [least, most] = self.elastic_magnitude_mm;
        let magnitude_mm = least + (most - least) * rng.random::<f64>();
        Some(DisplacementField::drawn(
            size,
            spacing_mm,
            [sigma_mm, magnitude_mm],
            rng,
        ))
    }

    /// The intensity changes of channel `index`; planes (y, x) are stored one after the other.
    pub(super) fn augment_channel(
        &self,
        index: usize,
        stack: &mut ArrayViewMut3<f32>,
        is_volume: bool,
        rng: &mut ChaCha8Rng,
    ) {
        // A random stream per channel: changes of one channel do not affect the next.
        rng.set_stream(index as u64 + 1);
        rng.set_word_pos(0);
        let (_, height, width) = stack.dim();
        match stack.as_slice_mut() {
            Some(values) => self.augment_values(values, [height, width], is_volume, rng),
            None => {
                let mut values: Vec<f32> = stack.iter().copied().collect();
                self.augment_values(&mut values, [height, width], is_volume, rng);
                stack.iter_mut().zip(values).for_each(|(to, v)| *to = v);
            }
        }
    }

    /// Intensity changes in nnU-Net's order, on planes of `size` (y, x) stored one after the other. In volumes, blur
    /// and low resolution also act across the planes.
    fn augment_values(
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
        // No scan shows values beyond the window.
        intensity::clamp(stack);
    }
}

/// Converts a patch (channel, z, y, x) to fractions of its windows, in [0, 1], if it holds normalised values.
pub(super) fn to_window_fractions(scalings: &[Scaling], mut patch: ArrayViewMut4<f32>) {
    for (mut channel, scaling) in patch.outer_iter_mut().zip(scalings) {
        if !scaling.is_plain() {
            channel.mapv_inplace(|value| scaling.share(value));
        }
    }
}

/// Inverse of [`to_window_fractions`].
pub(super) fn to_values(scalings: &[Scaling], mut patch: ArrayViewMut4<f32>) {
    for (mut channel, scaling) in patch.outer_iter_mut().zip(scalings) {
        if !scaling.is_plain() {
            channel.mapv_inplace(|share| scaling.of_share(share));
        }
    }
}
