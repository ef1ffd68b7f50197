//! Augmentation of patches of slices with their neighbouring slices.

use ndarray::{Array3, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4, Axis};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::affine_grid::{AffineGrid, AffineParams};
use crate::common::{to_values, to_window_fractions};
use crate::config::{Augmentation, FlipAxis};
use crate::draw::drawn;
use crate::field_of_view::ViewLine;
use crate::hounsfield::Hounsfield;
use ctseg_image::preprocess::normalisation::Scaling;

/// The part of a slice that a patch shows if it is not transformed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SliceCrop {
    /// First row and column.
    pub corner: [usize; 2],
    /// Rows and columns; transforms are about its centre.
    pub size: [usize; 2],
    /// Pixel spacing along (y, x).
    pub spacing_mm: [f64; 2],
    /// Number of leading channels that are images; the others (stage-1 probabilities) are only moved.
    pub image_channels: usize,
}

/// What patches are sampled from.
pub struct SliceSource<'a> {
    /// The slice and its neighbours in ascending order, each (channel, y, x).
    pub slices: &'a [ArrayView3<'a, f32>],
    /// (y, x)
    pub labels: ArrayView2<'a, u16>,
    /// The same slices in Hounsfield units, each (y, x). Without it there are no changes in Hounsfield units.
    pub hu: Option<Hounsfield<Vec<ArrayView2<'a, f32>>>>,
    /// One per image channel, in order; channels without one are in [0, 1]. Required with `hu`.
    pub scalings: &'a [Scaling],
}

impl Augmentation {
    /// Fills a patch and its labels from a slice and its neighbours, augmented as `seed` determines, and returns the
    /// affine transform. Images are interpolated linearly, labels by nearest neighbour; 0 outside the slice. The
    /// patch may be larger than the crop; it then continues at the high end. Intensity changes act on fractions of
    /// the channels' windows and stay within [0, 1]; a channel is changed alike in all slices.
    ///
    /// # Shapes
    /// - `patch`: (channel, slice, patch y, patch x); `patch_labels`: (patch y, patch x)
    pub fn fill(
        &self,
        crop: &SliceCrop,
        seed: u64,
        source: &SliceSource,
        (mut patch, patch_labels): (ArrayViewMut4<f32>, ArrayViewMut2<u16>),
    ) -> AffineParams {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let affine = self.draw_affine(&mut rng);
        let (_, depth, height, width) = patch.dim();
        let edge = self
            .truncates_view(&mut rng)
            .then(|| ViewLine::drawn(height, width, &mut rng));
        let field = self.draw_field([height, width], crop.spacing_mm, &mut rng);
        let [down_mm, along_mm] = crop.spacing_mm;
        let hu = source.hu.as_ref().and_then(|hu| {
            let shape = [depth, height, width];
            let change = self.draw_hu_change(shape, [1.0, down_mm, along_mm], &mut rng)?;
            Some((hu, change, Array3::zeros(shape)))
        });
        let grid = AffineGrid::new(crop.corner, crop.size, &affine, crop.spacing_mm);
        // If Hounsfield units are changed, the images are computed from them.
        let skipped = if hu.is_some() { crop.image_channels } else { 0 };
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
                grid.sample(field.as_ref(), planes, labels);
                change.apply(
                    &mut values,
                    hu.zero_hu,
                    source.scalings,
                    patch.view_mut(),
                    true,
                );
            }
            None => {
                grid.sample(field.as_ref(), planes, labels);
                to_window_fractions(source.scalings, patch.view_mut());
            }
        }
        self.augment_images(patch.view_mut(), crop, edge.as_ref(), &mut rng);
        to_values(source.scalings, patch);
        affine
    }

    /// Changes the images' intensities (fractions of the windows), applies dropout, and clears everything beyond
    /// `edge`.
    fn augment_images(
        &self,
        mut patch: ArrayViewMut4<f32>,
        crop: &SliceCrop,
        edge: Option<&ViewLine>,
        rng: &mut ChaCha8Rng,
    ) {
        let (_, depth, height, width) = patch.dim();
        let boxes = self.draw_boxes([depth, height, width], rng);
        let images = patch.outer_iter_mut().take(crop.image_channels);
        for (index, mut stack) in images.enumerate() {
            self.augment_channel(index, &mut stack, false, rng);
            if let Some(boxes) = &boxes {
                boxes.fill(stack.view_mut(), true);
            }
            if let Some(edge) = edge {
                stack.outer_iter_mut().for_each(|plane| edge.clear(plane));
            }
        }
    }

    fn draw_affine(&self, rng: &mut ChaCha8Rng) -> AffineParams {
        let mut affine = AffineParams::NONE;
        let limit = self.rotation_degrees;
        if let Some(degrees) = drawn(self.rotation_probability, [-limit, limit], rng) {
            affine.degrees = degrees;
        }
        if let Some(log) = drawn(self.scale_probability, self.scale.map(f64::ln), rng) {
            affine.scale = log.exp();
        }
        for (axis, flipped) in [FlipAxis::Y, FlipAxis::X].iter().zip(&mut affine.flip) {
            *flipped = self.flip_axes.contains(axis) && rng.random::<bool>();
        }
        affine
    }
}
