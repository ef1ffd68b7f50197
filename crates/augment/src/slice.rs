//! Augmentation of patches of slices and their neighbours.

use ndarray::{Array3, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::change::{to_shares, to_values};
use crate::config::{Augmentation, FlipAxis};
use crate::draw::drawn;
use crate::edge::Edge;
use crate::hounsfield::Hounsfield;
use crate::placement::{Placement, Turn};
use ctseg_image::preprocess::normalisation::Scaling;

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

/// What patches are cut from.
pub struct SliceSource<'a> {
    /// The slice and its neighbours from the lowest up, each (channel, y, x).
    pub slices: &'a [ArrayView3<'a, f32>],
    /// (y, x)
    pub labels: ArrayView2<'a, u16>,
    /// For changes in Hounsfield units, which there are none of without it: the same slices, each (y, x).
    pub hu: Option<Hounsfield<Vec<ArrayView2<'a, f32>>>>,
    /// Of the image channels, in their order; one without is from 0 to 1. Needed with `hu`.
    pub scalings: &'a [Scaling],
}

impl Augmentation {
    /// Fills a patch and its labels from a slice and its neighbours, changed as `seed` decides, and says how
    /// it was turned. Linear interpolation, labels by nearest neighbour; outside the slice 0. The patch may
    /// be larger than the cut; it goes on at the high end. Changes in intensity are those of shares of the
    /// channels' windows, which they never leave; what happens to one channel happens to all its slices.
    ///
    /// # Shapes
    /// - `patch`: (channel, slice, patch y, patch x); `patch_labels`: (patch y, patch x)
    pub fn fill(
        &self,
        cut: &Cut,
        seed: u64,
        source: &SliceSource,
        (mut patch, patch_labels): (ArrayViewMut4<f32>, ArrayViewMut2<u16>),
    ) -> Turn {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let turn = self.draw_turn(&mut rng);
        let (_, depth, height, width) = patch.dim();
        let edge = self
            .ends_the_view(&mut rng)
            .then(|| Edge::drawn(height, width, &mut rng));
        let field = self.draw_field([height, width], cut.spacing_mm, &mut rng);
        let [down_mm, along_mm] = cut.spacing_mm;
        let hu = source.hu.as_ref().and_then(|hu| {
            let shape = [depth, height, width];
            let change = self.draw_hu_change(shape, [1.0, down_mm, along_mm], &mut rng)?;
            Some((hu, change, Array3::zeros(shape)))
        });
        let placement = Placement::new(cut.corner, cut.size, &turn, cut.spacing_mm);
        // Where Hounsfield units are changed, images are windows of those.
        let skipped = if hu.is_some() { cut.image_channels } else { 0 };
        let mut stacks: Vec<ArrayViewMut3<f32>> = patch.outer_iter_mut().skip(skipped).collect();
        let mut planes = Vec::new();
        for (index, stack) in stacks.iter_mut().enumerate() {
            let from = source.slices.iter();
            let from = from.map(|slice| slice.index_axis(Axis(0), skipped + index));
            planes.extend(from.zip(stack.outer_iter_mut()));
        }
        let labels = (source.labels, patch_labels);
        match hu {
            Some((hu, change, mut values)) => {
                let from = hu.above.iter().map(|slice| slice.view());
                planes.extend(from.zip(values.outer_iter_mut()));
                placement.sample(field.as_ref(), planes, labels);
                change.shown(
                    &mut values,
                    hu.zero_hu,
                    source.scalings,
                    patch.view_mut(),
                    true,
                );
            }
            None => {
                placement.sample(field.as_ref(), planes, labels);
                to_shares(source.scalings, patch.view_mut());
            }
        }
        self.change_images(patch.view_mut(), cut, edge.as_ref(), &mut rng);
        to_values(source.scalings, patch);
        turn
    }

    /// Changes the images' shares of windows in intensity, drops boxes out, and clears what lies beyond `edge`.
    fn change_images(
        &self,
        mut patch: ArrayViewMut4<f32>,
        cut: &Cut,
        edge: Option<&Edge>,
        rng: &mut ChaCha8Rng,
    ) {
        let (_, depth, height, width) = patch.dim();
        let boxes = self.draw_boxes([depth, height, width], rng);
        let images = patch.outer_iter_mut().take(cut.image_channels);
        for (index, mut stack) in images.enumerate() {
            self.change_channel(index, &mut stack, false, rng);
            if let Some(boxes) = &boxes {
                boxes.fill(stack.view_mut(), true);
            }
            if let Some(edge) = edge {
                stack.outer_iter_mut().for_each(|plane| edge.clear(plane));
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
}
