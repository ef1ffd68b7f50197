//! Coarse dropout: boxes of a patch filled with a constant (DeVries and Taylor, Cutout, 2017).

use std::ops::Range;

use ndarray::{ArrayViewMut3, s};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::Augmentation;

const STREAM: u64 = u64::MAX - 5;

/// The boxes of one patch.
pub(super) struct Boxes {
    /// Ranges along z, y, x.
    boxes: Vec<[Range<usize>; 3]>,
    value: f32,
}

impl Augmentation {
    /// Boxes for a patch of `shape` (z, y, x), if dropout applies.
    pub(super) fn draw_boxes(&self, shape: [usize; 3], rng: &mut ChaCha8Rng) -> Option<Boxes> {
        rng.set_stream(STREAM);
        rng.set_word_pos(0);
        if rng.random::<f64>() >= self.coarse_dropout_probability {
            return None;
        }
        let [fewest, most] = self.coarse_dropout_boxes;
        let [least, largest] = self.coarse_dropout_size;
        let boxes = (0..rng.random_range(fewest..=most))
            .map(|_| {
                shape.map(|length| {
                    let share = least + (largest - least) * rng.random::<f64>();
                    let size = ((length as f64 * share).round() as usize).clamp(1, length.max(1));
                    let start = rng.random_range(0..=length.saturating_sub(size));
                    start..(start + size).min(length)
                })
            })
            .collect();
        Some(Boxes {
            boxes,
            value: self.coarse_dropout_value as f32,
        })
    }
}

impl Boxes {
    /// Fills the boxes of one channel (z, y, x). In `flat` patches a box also covers the neighbouring slices.
    pub(super) fn fill(&self, mut channel: ArrayViewMut3<f32>, flat: bool) {
        for [z, y, x] in &self.boxes {
            let planes = match flat {
                true => 0..channel.dim().0,
                false => z.clone(),
            };
            channel
                .slice_mut(s![planes, y.clone(), x.clone()])
                .fill(self.value);
        }
    }
}
