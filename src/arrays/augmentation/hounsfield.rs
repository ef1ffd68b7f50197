//! Changes in Hounsfield units: what a differently calibrated scanner or metal in the patient would have given
//! before the windows were applied.

use ndarray::{ArrayView3, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4, s};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::streaks::Metal;
use super::{Augmentation, drawn};
use crate::arrays::preprocess::Window;

/// The Hounsfield units that the image channels are windows of. A window cuts off what lies beyond its ends, and
/// what a shift brings back into it is not in its channel any more: it is in here.
#[derive(Debug, Clone, Copy)]
pub struct Hounsfield<'a> {
    /// What 0 in the values stands for: below every window by more than any change.
    pub lowest_hu: f32,
    /// Of the image channels, in their order.
    pub windows: &'a [Window],
}

/// What happens to one patch.
pub(super) struct HuChange {
    shift_hu: f32,
    metal: Option<Metal>,
}

const SHIFT_STREAM: u64 = u64::MAX - 3;
const METAL_STREAM: u64 = u64::MAX - 4;

impl Augmentation {
    /// How far changes in Hounsfield units reach at most; none where they are all off. So far beyond the
    /// windows a patch's Hounsfield units must be known.
    pub fn reach_hu(&self) -> Option<f64> {
        let when = |probability: f64, reach: f64| if probability > 0.0 { reach } else { 0.0 };
        let [low, high] = self.hu_shift.map(f64::abs);
        let reach = when(self.hu_shift_probability, low.max(high))
            + when(self.metal_probability, self.metal_streak_hu[1]);
        let on = self.hu_shift_probability > 0.0 || self.metal_probability > 0.0;
        on.then_some(reach)
    }

    /// What happens to a patch, if anything; `shape` is the patch's (z, y, x).
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
    /// Changes a patch's values (z, y, x), Hounsfield units above the lowest. In `flat` patches the planes
    /// are a slice and its neighbours, and metal goes through all of them.
    pub(super) fn change(&self, mut values: ArrayViewMut3<f32>, lowest_hu: f32, flat: bool) {
        if self.shift_hu != 0.0 {
            values.mapv_inplace(|v| v + self.shift_hu);
        }
        if let Some(metal) = &self.metal {
            metal.put_into(values, lowest_hu, flat);
        }
    }
}

impl Hounsfield<'_> {
    /// Fills the image channels, the first `count`, of a patch from its changed values.
    ///
    /// # Shapes
    /// - `values`: (z, y, x), Hounsfield units above the lowest; `patch`: (channel, z, y, x)
    pub(super) fn windowed(
        &self,
        values: ArrayView3<f32>,
        mut patch: ArrayViewMut4<f32>,
        count: usize,
    ) {
        let channels = patch.outer_iter_mut().take(count);
        for (mut channel, window) in channels.zip(self.windows) {
            channel.zip_mut_with(&values, |to, above| {
                *to = window.scaled(above + self.lowest_hu);
            });
        }
    }
}

/// The plane at `z`.
pub(super) fn plane<'a>(values: &'a mut ArrayViewMut3<f32>, z: usize) -> ArrayViewMut2<'a, f32> {
    values.slice_mut(s![z, .., ..])
}
