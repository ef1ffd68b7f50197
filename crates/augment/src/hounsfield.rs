//! Changes in Hounsfield units, before windowing: the effect of a differently calibrated scanner, or of metal in the
//! patient.

use ndarray::{Array3, ArrayViewMut3, ArrayViewMut4};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::Augmentation;
use crate::draw::drawn;
use crate::streaks::Metal;
use ctseg_image::preprocess::normalisation::Scaling;

/// The Hounsfield units from which the image channels were windowed. A window clips values; a shift can bring clipped
/// values back, which the channel no longer holds.
#[derive(Debug, Clone)]
pub struct Hounsfield<T> {
    /// Hounsfield units above `zero_hu`, see [`ctseg_image::preprocess::channels::relative_hounsfield`].
    pub above: T,
    /// The Hounsfield units that 0 stands for; also the padding beyond the volume.
    pub zero_hu: f32,
}

/// The changes of one patch.
pub(super) struct HuChange {
    shift_hu: f32,
    metal: Option<Metal>,
}

const SHIFT_STREAM: u64 = u64::MAX - 3;
const METAL_STREAM: u64 = u64::MAX - 4;

impl Augmentation {
    /// The largest possible change in Hounsfield units; `None` if all are off. Values must be kept this far beyond
    /// the windows.
    pub fn max_hu_change(&self) -> Option<f64> {
        let when = |probability: f64, reach: f64| if probability > 0.0 { reach } else { 0.0 };
        let [low, high] = self.hu_shift.map(f64::abs);
        let reach = when(self.hu_shift_probability, low.max(high))
            + when(self.metal_probability, self.metal_streak_hu[1]);
        let on = self.hu_shift_probability > 0.0 || self.metal_probability > 0.0;
        on.then_some(reach)
    }

    /// The changes of a patch of `shape` (z, y, x), if any.
    pub(super) fn draw_hu_change(
        &self,
        shape: [usize; 3],
        spacing_mm: [f64; 3],
        rng: &mut ChaCha8Rng,
    ) -> Option<HuChange> {
        rng.set_stream(SHIFT_STREAM);
        rng.set_word_pos(0);
        let shift = drawn(self.hu_shift_probability, self.hu_shift, rng);
        rng.set_stream(METAL_STREAM);
        rng.set_word_pos(0);
        let metal = (rng.random::<f64>() < self.metal_probability)
            .then(|| Metal::drawn(self, shape, spacing_mm, rng));
        (shift.is_some() || metal.is_some()).then(|| HuChange {
            shift_hu: shift.unwrap_or(0.0) as f32,
            metal,
        })
    }
}

impl HuChange {
    /// Changes a patch's values (z, y, x), in Hounsfield units above `zero_hu`. In `flat` patches the planes are a
    /// slice and its neighbours, and metal extends through all of them. If `padded`, 0 is padding and stays 0, so
    /// that no metal is placed there.
    fn change(&self, mut values: ArrayViewMut3<f32>, zero_hu: f32, flat: bool, padded: bool) {
        if self.shift_hu != 0.0 {
            let kept = |v: f32| padded && v == 0.0;
            values.mapv_inplace(|v| if kept(v) { v } else { v + self.shift_hu });
        }
        if let Some(metal) = &self.metal {
            metal.insert(values, zero_hu, flat);
        }
    }

    /// Changes a patch's values and fills its image channels, one per scaling, with fractions of the windows. Padding
    /// beyond the volume is not changed.
    ///
    /// # Shapes
    /// - `values`: (z, y, x), Hounsfield units above `zero_hu`; `patch`: (channel, z, y, x)
    pub(super) fn apply(
        &self,
        values: &mut Array3<f32>,
        zero_hu: f32,
        scalings: &[Scaling],
        mut patch: ArrayViewMut4<f32>,
        flat: bool,
    ) {
        let padded = scalings.iter().any(|scaling| !scaling.is_plain());
        let beyond = padded.then(|| values.mapv(|above| above == 0.0));
        self.change(values.view_mut(), zero_hu, flat, padded);
        for (mut channel, scaling) in patch.outer_iter_mut().zip(scalings) {
            channel.zip_mut_with(values, |to, above| {
                *to = scaling.window.scaled(above + zero_hu);
            });
            if let Some(beyond) = &beyond {
                let padding = scaling.share(0.0);
                channel.zip_mut_with(beyond, |to, beyond| {
                    *to = if *beyond { padding } else { *to };
                });
            }
        }
    }
}
