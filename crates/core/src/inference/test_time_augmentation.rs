//! Test-time augmentation: a network looks at a volume and at its mirror images, and the mean counts
//! (nnU-Net's mirroring, Isensee et al., Nature Methods 2021).

use ndarray::{Array5, Axis};

use crate::dataset::Structure;
use crate::dataset::laterality::counterparts;
use crate::recipe::Recipe;
use ctseg_augment::FlipAxis;
use ctseg_base::{Error, Result};
use ctseg_engine::inference::Logits;

/// The mirror images that a network looks at, the volume itself first.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirroring {
    images: Vec<Image>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Image {
    /// Mirrored axes of (patch, channel, z, y, x).
    axes: Vec<usize>,
    /// For each output map the one that holds its structure here; the same where nothing is said.
    maps: Option<Vec<usize>>,
}

impl Mirroring {
    /// The volume alone.
    pub fn none() -> Self {
        Self {
            images: vec![Image::default()],
        }
    }

    /// Mirrored along every choice of `axes` (of z, y, x); structures stay what they are.
    pub fn along(axes: &[usize]) -> Self {
        let mut images = vec![Image::default()];
        for axis in axes {
            let more: Vec<Image> = images
                .iter()
                .map(|image| Image {
                    axes: image.axes.iter().copied().chain([axis + 2]).collect(),
                    maps: None,
                })
                .collect();
            images.extend(more);
        }
        Self { images }
    }

    /// Mirrored along every choice of the axes that the network was trained with. Along x, structures of
    /// one side are found in the maps of the other.
    ///
    /// # Errors
    /// The network was never shown a mirrored patient; and those of [`counterparts`].
    pub fn new(recipe: &Recipe, structures: &[Structure]) -> Result<Self> {
        if let Some(nnunet) = &recipe.nnunet {
            if nnunet.mirror_axes.is_empty() {
                return Err(Error::invalid(format!(
                    "--tta: '{}' is a model of nnU-Net that was trained without mirroring, or imported with --no-mirroring: leave --tta out",
                    recipe.name
                )));
            }
            return Ok(Self::along(&nnunet.mirror_axes));
        }
        let trained = recipe.training.augmentation();
        let flips = trained.map_or(&[][..], |augmentation| &augmentation.flip_axes);
        if flips.is_empty() {
            return Err(Error::invalid(format!(
                "--tta mirrors along the axes that a stage was trained with, and '{}' was trained without: leave --tta out, or train with training.augmentation.flip_axes",
                recipe.name
            )));
        }
        let exchanged = match trained {
            Some(augmentation) if flips.contains(&FlipAxis::X) => {
                Some(exchanged(structures, &augmentation.mirror_pairs)?)
            }
            _ => None,
        };
        let mut images = vec![Image::default()];
        for axis in flips {
            let (place, maps) = match axis {
                FlipAxis::Z => (2, None),
                FlipAxis::Y => (3, None),
                FlipAxis::X => (4, exchanged.as_ref()),
            };
            if images.iter().any(|image| image.axes.contains(&place)) {
                continue; // named twice
            }
            let more: Vec<Image> = images
                .iter()
                .map(|image| Image {
                    axes: image.axes.iter().copied().chain([place]).collect(),
                    maps: maps.cloned().or_else(|| image.maps.clone()),
                })
                .collect();
            images.extend(more);
        }
        Ok(Self { images })
    }

    /// How often the network looks.
    pub fn looks(&self) -> usize {
        self.images.len()
    }

    /// The mean over the images of what `logits` says of each, mirrored back. Patches are mirrored in place, as in
    /// nnU-Net; the neighbours of a slice change sides along z.
    ///
    /// # Shapes
    /// - `batch`: (patch, channel, z, y, x), flattened
    /// - output: (patch, structure, z, y, x), flattened, and that shape
    pub fn mean_logits(
        &self,
        batch: Vec<f32>,
        shape: [usize; 5],
        logits: impl Fn(&[f32], [usize; 5]) -> Result<Logits>,
    ) -> Result<Logits> {
        if self.looks() == 1 {
            return logits(&batch, shape);
        }
        let batch = Array5::from_shape_vec(shape, batch).map_err(internal)?;
        let mut sum: Option<Array5<f32>> = None;
        for image in &self.images {
            let mirrored = image.mirrored(batch.clone());
            let seen = mirrored.as_standard_layout();
            let seen = seen.as_slice().unwrap_or_default();
            let (values, out) = logits(seen, shape)?;
            let mut found =
                image.mirrored(Array5::from_shape_vec(out, values.into_vec()).map_err(internal)?);
            if let Some(maps) = &image.maps {
                found = found.select(Axis(1), maps);
            }
            sum = Some(match sum {
                None => found,
                Some(sum) => sum + &found,
            });
        }
        let sum = sum.ok_or_else(|| Error::invalid("internal: no image to look at"))?;
        let mean = sum / self.looks() as f32;
        let (patches, structures, z, y, x) = mean.dim();
        let mean: Vec<f32> = mean.as_standard_layout().iter().copied().collect();
        Ok((mean.into(), [patches, structures, z, y, x]))
    }
}

impl Image {
    fn mirrored(&self, mut array: Array5<f32>) -> Array5<f32> {
        for axis in &self.axes {
            array.invert_axis(Axis(*axis));
        }
        array
    }
}

fn internal(error: ndarray::ShapeError) -> Error {
    Error::invalid(format!("internal: {error}"))
}

/// For each structure the place of its other side's, or its own.
fn exchanged(structures: &[Structure], named: &[[String; 2]]) -> Result<Vec<usize>> {
    let pairs = counterparts(structures, named)?;
    let place = |value: u16| structures.iter().position(|s| s.value == value);
    let places = structures.iter().enumerate().map(|(at, structure)| {
        let other = pairs.get(&structure.value);
        other.and_then(|value| place(*value)).unwrap_or(at)
    });
    Ok(places.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    fn structures() -> Vec<Structure> {
        let named = [(1, "cord"), (2, "eye_left"), (4, "eye_right")];
        let named = named.map(|(value, name)| Structure {
            value,
            name: name.to_owned(),
        });
        named.to_vec()
    }

    fn trained(flips: &str) -> Recipe {
        let set = format!("training.augmentation.flip_axes={flips}");
        Recipe::named("refine2_5d", &[set]).unwrap()
    }

    /// Left eye: bright voxels in the left half, right eye: in the right half; cord: bright anywhere.
    fn by_side(input: &[f32], shape: [usize; 5]) -> Result<Logits> {
        let input = Array5::from_shape_vec(shape, input.to_vec()).unwrap();
        let [patches, _, depth, height, width] = shape;
        let out = [patches, 3, depth, height, width];
        let found = Array5::from_shape_fn(out, |(patch, map, z, y, x)| {
            let value = input[[patch, 0, z, y, x]];
            let left = 2 * x < width;
            match map {
                1 if !left => -value,
                2 if left => -value,
                _ => value,
            }
        });
        Ok((found.into_raw_vec_and_offset().0.into(), out))
    }

    #[test]
    fn a_fair_network_says_the_same_of_mirror_images() {
        let shape = [2, 1, 3, 4, 6];
        let batch: Vec<f32> = (1..=144).map(|value| value as f32).collect();
        let expected = by_side(&batch, shape).unwrap();
        for (flips, looks) in [("['x']", 2), ("['y']", 2), ("['x', 'y', 'x']", 4)] {
            let mirroring = Mirroring::new(&trained(flips), &structures()).unwrap();
            assert_eq!(mirroring.looks(), looks);
            let mean = mirroring
                .mean_logits(batch.clone(), shape, by_side)
                .unwrap();
            assert_eq!(mean, expected, "{flips}");
        }
    }

    #[test]
    fn the_images_are_mirrored_and_averaged() {
        let mirroring = Mirroring::new(&trained("['x']"), &structures()[..1]).unwrap();
        // Counts voxels from the left, whatever is there.
        let from_left = |seen: &[f32], shape: [usize; 5]| {
            let counted = seen.iter().zip([0.0, 10.0, 20.0, 30.0]);
            let counted: Vec<f32> = counted.map(|(value, place)| value + place).collect();
            Ok((counted.into(), shape))
        };
        let batch = vec![0.0, 1.0, 2.0, 3.0];
        let (mean, _) = mirroring
            .mean_logits(batch, [1, 1, 1, 1, 4], from_left)
            .unwrap();
        assert_eq!(mean.into_vec(), [15.0, 16.0, 17.0, 18.0]);
    }

    #[test]
    fn a_network_that_never_saw_a_mirror_image_is_not_asked_about_one() {
        let error = Mirroring::new(&trained("[]"), &structures()).unwrap_err();
        assert!(error.to_string().contains("--tta"), "{error}");
        let lonely = &structures()[..2];
        assert!(Mirroring::new(&trained("['x']"), lonely).is_err());
        assert!(Mirroring::new(&trained("['y']"), lonely).is_ok());
    }
}
