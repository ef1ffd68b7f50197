//! Test-time augmentation: the mean of the logits of a volume and its mirrored views (nnU-Net's mirroring, Isensee et
//! al., Nature Methods 2021).

use ndarray::{Array5, Axis};

use crate::dataset::Structure;
use crate::dataset::laterality::counterparts;
use crate::recipe::Recipe;
use ctseg_augment::FlipAxis;
use ctseg_base::{Error, Result};
use ctseg_engine::inference::Logits;

/// The views of test-time augmentation, the original first.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirroring {
    views: Vec<View>,
}

/// The original or a mirrored view.
#[derive(Debug, Clone, Default, PartialEq)]
struct View {
    /// Mirrored axes of (patch, channel, z, y, x).
    axes: Vec<usize>,
    /// For each output map, the map that holds its structure in this view; `None` if they are the same.
    maps: Option<Vec<usize>>,
}

impl Mirroring {
    /// No test-time augmentation.
    pub fn none() -> Self {
        Self {
            views: vec![View::default()],
        }
    }

    /// Mirrored along every subset of `axes` (of z, y, x); left and right structures are not exchanged.
    pub fn along(axes: &[usize]) -> Self {
        let mut views = vec![View::default()];
        for axis in axes {
            let more: Vec<View> = views
                .iter()
                .map(|view| View {
                    axes: view.axes.iter().copied().chain([axis + 2]).collect(),
                    maps: None,
                })
                .collect();
            views.extend(more);
        }
        Self { views }
    }

    /// Mirrored along every subset of the axes that the network was trained with. Mirroring along x exchanges the
    /// maps of left and right structures.
    ///
    /// # Errors
    /// The network was trained without mirroring; and those of [`counterparts`].
    pub fn new(recipe: &Recipe, structures: &[Structure]) -> Result<Self> {
        if let Some(nnunet) = &recipe.nnunet {
            if nnunet.mirror_axes.is_empty() {
                return Err(Error::unsupported(format!(
                    "--tta: '{}' is an nnU-Net model that was trained without mirroring, or imported with --no-mirroring; remove --tta",
                    recipe.name
                )));
            }
            return Ok(Self::along(&nnunet.mirror_axes));
        }
        let trained = recipe.training.augmentation();
        let flips = trained.map_or(&[][..], |augmentation| &augmentation.flip_axes);
        if flips.is_empty() {
            return Err(Error::unsupported(format!(
                "--tta mirrors along the axes that a stage was trained with, and '{}' was trained without mirroring; remove --tta, or train with training.augmentation.flip_axes",
                recipe.name
            )));
        }
        let exchanged = match trained {
            Some(augmentation) if flips.contains(&FlipAxis::X) => {
                Some(exchanged(structures, &augmentation.mirror_pairs)?)
            }
            _ => None,
        };
        let mut views = vec![View::default()];
        for axis in flips {
            let (place, maps) = match axis {
                FlipAxis::Z => (2, None),
                FlipAxis::Y => (3, None),
                FlipAxis::X => (4, exchanged.as_ref()),
            };
            if views.iter().any(|view| view.axes.contains(&place)) {
                continue; // listed twice
            }
            let more: Vec<View> = views
                .iter()
                .map(|view| View {
                    axes: view.axes.iter().copied().chain([place]).collect(),
                    maps: maps.cloned().or_else(|| view.maps.clone()),
                })
                .collect();
            views.extend(more);
        }
        Ok(Self { views })
    }

    /// Number of views, including the original.
    pub fn views(&self) -> usize {
        self.views.len()
    }

    /// The mean of `logits` over all views, mirrored back. Patches are mirrored in place, as in nnU-Net; the
    /// neighbours of a slice are exchanged along z.
    ///
    /// # Shapes
    /// - `batch`: (patch, channel, z, y, x), flattened
    /// - output: (patch, structure, z, y, x), flattened, and that shape
    pub fn mean_of_views(
        &self,
        batch: Vec<f32>,
        shape: [usize; 5],
        logits: impl Fn(&[f32], [usize; 5]) -> Result<Logits>,
    ) -> Result<Logits> {
        if self.views() == 1 {
            return logits(&batch, shape);
        }
        let batch = Array5::from_shape_vec(shape, batch).map_err(internal)?;
        let mut sum: Option<Array5<f32>> = None;
        for view in &self.views {
            let mirrored = view.mirrored(batch.clone());
            let input = mirrored.as_standard_layout();
            let input = input.as_slice().unwrap_or_default();
            let (values, out) = logits(input, shape)?;
            let mut found =
                view.mirrored(Array5::from_shape_vec(out, values.into_vec()).map_err(internal)?);
            if let Some(maps) = &view.maps {
                found = found.select(Axis(1), maps);
            }
            sum = Some(match sum {
                None => found,
                Some(sum) => sum + &found,
            });
        }
        let sum = sum.ok_or_else(|| Error::internal("test-time augmentation without views"))?;
        let mean = sum / self.views() as f32;
        let (patches, structures, z, y, x) = mean.dim();
        let mean: Vec<f32> = mean.as_standard_layout().iter().copied().collect();
        Ok((mean.into(), [patches, structures, z, y, x]))
    }
}

impl View {
    fn mirrored(&self, mut array: Array5<f32>) -> Array5<f32> {
        for axis in &self.axes {
            array.invert_axis(Axis(*axis));
        }
        array
    }
}

fn internal(error: ndarray::ShapeError) -> Error {
    Error::internal(error.to_string())
}

/// For each structure the index of its left-right counterpart, or its own.
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
    fn a_symmetric_network_gives_the_same_mean() {
        let shape = [2, 1, 3, 4, 6];
        let batch: Vec<f32> = (1..=144).map(|value| value as f32).collect();
        let expected = by_side(&batch, shape).unwrap();
        for (flips, views) in [("['x']", 2), ("['y']", 2), ("['x', 'y', 'x']", 4)] {
            let mirroring = Mirroring::new(&trained(flips), &structures()).unwrap();
            assert_eq!(mirroring.views(), views);
            let mean = mirroring
                .mean_of_views(batch.clone(), shape, by_side)
                .unwrap();
            assert_eq!(mean, expected, "{flips}");
        }
    }

    #[test]
    fn the_views_are_mirrored_and_averaged() {
        let mirroring = Mirroring::new(&trained("['x']"), &structures()[..1]).unwrap();
        // Adds the position from the left.
        let from_left = |seen: &[f32], shape: [usize; 5]| {
            let counted = seen.iter().zip([0.0, 10.0, 20.0, 30.0]);
            let counted: Vec<f32> = counted.map(|(value, place)| value + place).collect();
            Ok((counted.into(), shape))
        };
        let batch = vec![0.0, 1.0, 2.0, 3.0];
        let (mean, _) = mirroring
            .mean_of_views(batch, [1, 1, 1, 1, 4], from_left)
            .unwrap();
        assert_eq!(mean.into_vec(), [15.0, 16.0, 17.0, 18.0]);
    }

    #[test]
    fn a_network_trained_without_mirroring_is_refused() {
        let error = Mirroring::new(&trained("[]"), &structures()).unwrap_err();
        assert!(error.to_string().contains("--tta"), "{error}");
        let lonely = &structures()[..2];
        assert!(Mirroring::new(&trained("['x']"), lonely).is_err());
        assert!(Mirroring::new(&trained("['y']"), lonely).is_ok());
    }
}
