//! The changes that patches of slices and of volumes share: where the view ends, elastic fields and intensities.

use ndarray::{ArrayViewMut3, ArrayViewMut4};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::Augmentation;
use crate::draw::drawn;
use crate::elastic::Field;
use crate::intensity;
use ctseg_image::preprocess::normalisation::Scaling;

const ELASTIC_STREAM: u64 = u64::MAX - 2;

impl Augmentation {
    /// Whether the field of view ends within a patch.
    pub(super) fn ends_the_view(&self, rng: &mut ChaCha8Rng) -> bool {
        rng.set_stream(u64::MAX);
        rng.set_word_pos(0);
        drawn(self.field_of_view_probability, [0.0, 1.0], rng).is_some()
    }

    /// The displacement of a patch of `size` voxels, if it is deformed.
    pub(super) fn draw_field<const D: usize>(
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

    /// The intensity changes of channel `index`, planes (y, x) one after the other.
    pub(super) fn change_channel(
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
pub(super) fn to_shares(scalings: &[Scaling], mut patch: ArrayViewMut4<f32>) {
    for (mut channel, scaling) in patch.outer_iter_mut().zip(scalings) {
        if !scaling.is_plain() {
            channel.mapv_inplace(|value| scaling.share(value));
        }
    }
}

/// And values again.
pub(super) fn to_values(scalings: &[Scaling], mut patch: ArrayViewMut4<f32>) {
    for (mut channel, scaling) in patch.outer_iter_mut().zip(scalings) {
        if !scaling.is_plain() {
            channel.mapv_inplace(|share| scaling.of_share(share));
        }
    }
}
