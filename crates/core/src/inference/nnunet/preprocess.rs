//! What an nnU-Net network sees of a volume: `DefaultPreprocessor`'s normalisation and resampling, and in a cascade
//! the labels of the stage before as masks.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, Array4, ArrayView3, Axis, Slice, Zip, s};

use super::placement::{Placed, nonzero_mask};
use crate::inference::stage::check_memory;
use crate::recipe::{NnunetConfig, NnunetNormalisation, Recipe, header_spacing_mm};
use ctseg_base::{Error, Result};
use ctseg_image::resample::{
    LabelInterpolation, resample_array, resample_label_slices, resample_labels, resample_slices,
};
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};

/// No structure's label.
const OUTSIDE: u16 = u16::MAX; // dataset_json refuses it

/// nnU-Net divides by no less.
const LEAST_SD: f32 = 1e-8;

/// The network's input on `placed.grid`.
///
/// # Shapes
/// output: (channel, z, y, x): the volume, then a mask for each of `previous_labels`
///
/// # Errors
/// No labels of the stage before where the network wants them; a volume that its normalisation is not meant for.
pub fn nnunet_input(
    recipe: &Recipe,
    nnunet: &NnunetConfig,
    volume: &Volume,
    placed: &Placed,
    previous: Option<&LabelMap>,
) -> Result<Array4<f32>> {
    check_memory(recipe, &placed.grid)?;
    let native = volume.grid.cropped(&placed.region);
    let normalised = normalised(
        nnunet.normalisation,
        part(volume.data.view(), &placed.region),
    )?;
    let [own_mm, new_mm] = spacings_mm(recipe, nnunet, &volume.grid);
    let onto = &placed.grid;
    let image = match nnunet.image_slices.axis(own_mm, new_mm) {
        _ if onto.shape == placed.native.shape => {
            resample_array(normalised.view(), &native, onto, recipe.interpolation)?
        }
        Some(axis) => {
            resample_slices(normalised.view(), &native, onto, axis, recipe.interpolation)?
        }
        None => resample_array(normalised.view(), &native, onto, recipe.interpolation)?,
    };
    drop(normalised);
    let [z, y, x] = onto.shape_zyx();
    let mut input = Array4::zeros((recipe.channels(), z, y, x));
    input.index_axis_mut(Axis(0), 0).assign(&image);
    drop(image);
    if nnunet.previous_labels.is_empty() {
        return Ok(input);
    }
    let previous = previous.ok_or_else(|| {
        Error::invalid(format!(
            "recipe {} needs the labels of the stage before and there are none",
            recipe.name
        ))
    })?;
    let slices = nnunet.label_slices.axis(own_mm, new_mm);
    let labels = previous_on_grid(previous, volume, placed, slices)?;
    let mut masks = input.slice_mut(s![1.., .., .., ..]);
    for (mut mask, label) in masks.outer_iter_mut().zip(&nnunet.previous_labels) {
        Zip::from(&mut mask)
            .and(&labels.data)
            .par_for_each(|mask, found| *mask = f32::from(u8::from(found == label)));
    }
    Ok(input)
}

/// The labels of the stage before on `placed.grid`, resampled slice by slice across `slices` where there is such an
/// axis.
fn previous_on_grid(
    previous: &LabelMap,
    volume: &Volume,
    placed: &Placed,
    slices: Option<usize>,
) -> Result<LabelMap> {
    let mut labels = LabelMap {
        grid: previous.grid.cropped(&placed.region),
        data: part(previous.data.view(), &placed.region).to_owned(),
    };
    // Background where the volume is 0 is a label of its own there (`crop_to_nonzero`).
    let data = part(volume.data.view(), &placed.region);
    if data.iter().any(|value| *value == 0.0) {
        Zip::from(&mut labels.data)
            .and(&nonzero_mask(data))
            .par_for_each(|label, inside| {
                if *label == 0 && !inside {
                    *label = OUTSIDE;
                }
            });
    }
    let onto = &placed.grid;
    match slices {
        Some(axis) if onto.shape != placed.native.shape => {
            resample_label_slices(&labels, onto, axis)
        }
        _ => resample_labels(&labels, onto, LabelInterpolation::Likeliest),
    }
}

/// Along x, y, z of the network: the volume's spacing, and the network's.
fn spacings_mm(recipe: &Recipe, nnunet: &NnunetConfig, source: &Grid) -> [[f64; 3]; 2] {
    let own_mm = header_spacing_mm(&source.reoriented(nnunet.orientation(source)));
    [own_mm, recipe.nnunet_spacing_mm(own_mm)]
}

/// A region (x, y, z) of an array (z, y, x).
fn part<'a, T>(mut data: ArrayView3<'a, T>, region: &VoxelBox) -> ArrayView3<'a, T> {
    for (axis, range) in region.ranges_zyx().into_iter().enumerate() {
        data.slice_axis_inplace(Axis(axis), Slice::from(range));
    }
    data
}

/// The values that the network sees; what is not finite counts as the lowest value that is.
fn normalised(scheme: NnunetNormalisation, data: ArrayView3<f32>) -> Result<Array3<f32>> {
    let mut values = finite(data);
    match scheme {
        NnunetNormalisation::Ct {
            low_hu,
            high_hu,
            mean_hu,
            sd_hu,
        } => {
            let sd_hu = sd_hu.max(LEAST_SD);
            values.par_mapv_inplace(|hu| (hu.clamp(low_hu, high_hu) - mean_hu) / sd_hu);
        }
        NnunetNormalisation::ZScore { masked } => {
            let mask = masked.then(|| nonzero_mask(data));
            let (mean, sd) = mean_and_sd(&values, mask.as_ref());
            let sd = (sd as f32).max(LEAST_SD);
            let score = |value: f32| (value - mean as f32) / sd;
            match mask {
                None => values.par_mapv_inplace(score),
                Some(mask) => Zip::from(&mut values)
                    .and(&mask)
                    .par_for_each(|value, inside| {
                        if *inside {
                            *value = score(*value);
                        }
                    }),
            }
        }
        NnunetNormalisation::None {} => {}
        NnunetNormalisation::RescaleTo01 {} => {
            let [low, high] = ends(&values);
            let span = (high - low).max(LEAST_SD);
            values.par_mapv_inplace(|value| (value - low) / span);
        }
        NnunetNormalisation::RgbTo01 {} => {
            let [low, high] = ends(&values);
            if low < 0.0 || high > 255.0 {
                return Err(Error::invalid(format!(
                    "holds values from {low} to {high}; the model's RGBTo01Normalization is for 0 to 255: it was not trained on CT"
                )));
            }
            values.par_mapv_inplace(|value| value / 255.0);
        }
    }
    Ok(values)
}

fn finite(data: ArrayView3<f32>) -> Array3<f32> {
    let mut values = data.to_owned();
    if values.par_iter().any(|value| !value.is_finite()) {
        let [low, _] = ends(&values);
        values.par_mapv_inplace(|value| if value.is_finite() { value } else { low });
    }
    values
}

/// The lowest and the highest finite value; 0 where there is none.
fn ends(values: &Array3<f32>) -> [f32; 2] {
    let nothing = [f32::INFINITY, f32::NEG_INFINITY];
    let wider = |a: [f32; 2], b: [f32; 2]| [a[0].min(b[0]), a[1].max(b[1])];
    let found = values
        .par_iter()
        .filter(|value| value.is_finite())
        .map(|value| [*value; 2])
        .reduce(|| nothing, wider);
    match found[0] <= found[1] {
        true => found,
        false => [0.0; 2],
    }
}

/// Of what lies in the mask, or of all; the standard deviation is divided by n. Added up plane by plane, in their
/// order: the same on any number of threads.
fn mean_and_sd(values: &Array3<f32>, mask: Option<&Array3<bool>>) -> (f64, f64) {
    let sum_of = |of: &(dyn Fn(f64) -> f64 + Sync)| {
        let planes = (0..values.len_of(Axis(0))).into_par_iter().map(|z| {
            let plane = values.index_axis(Axis(0), z);
            match mask {
                None => plane.iter().map(|value| of(f64::from(*value))).sum(),
                Some(mask) => {
                    let inside = plane.iter().zip(mask.index_axis(Axis(0), z));
                    let inside = inside.filter(|(_, inside)| **inside);
                    inside.map(|(value, _)| of(f64::from(*value))).sum::<f64>()
                }
            }
        });
        let sums: Vec<f64> = planes.collect();
        sums.iter().sum::<f64>()
    };
    let count = sum_of(&|_| 1.0).max(1.0);
    let mean = sum_of(&|value| value) / count;
    let variance = sum_of(&|value| (value - mean) * (value - mean)) / count;
    (mean, variance.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: [f32; 4]) -> Array3<f32> {
        Array3::from_shape_vec((1, 2, 2), values.to_vec()).unwrap()
    }

    // Golden values: nnunetv2 2.8.1's classes on the same numbers, by hand.
    #[test]
    fn schemes_are_nnu_nets() {
        let of = |scheme, data| {
            normalised(scheme, values(data).view()).map(|found| found.into_raw_vec_and_offset().0)
        };
        let ct = NnunetNormalisation::Ct {
            low_hu: -100.0,
            high_hu: 200.0,
            mean_hu: 50.0,
            sd_hu: 50.0,
        };
        let data = [-1000.0, 0.0, 100.0, 3000.0];
        assert_eq!(of(ct, data).unwrap(), [-3.0, -1.0, 1.0, 3.0]);
        let plain = NnunetNormalisation::ZScore { masked: false };
        assert_eq!(
            of(plain, [1.0, 1.0, 3.0, 3.0]).unwrap(),
            [-1.0, -1.0, 1.0, 1.0]
        );
        let masked = NnunetNormalisation::ZScore { masked: true };
        assert_eq!(
            of(masked, [0.0, 0.0, 1.0, 3.0]).unwrap(),
            [0.0, 0.0, -1.0, 1.0]
        );
        assert_eq!(of(NnunetNormalisation::None {}, data).unwrap(), data);
        let unit = NnunetNormalisation::RescaleTo01 {};
        assert_eq!(
            of(unit, [-10.0, 0.0, 30.0, 10.0]).unwrap(),
            [0.0, 0.25, 1.0, 0.5]
        );
        let rgb = NnunetNormalisation::RgbTo01 {};
        assert_eq!(
            of(rgb, [0.0, 51.0, 255.0, 0.0]).unwrap(),
            [0.0, 0.2, 1.0, 0.0]
        );
        assert!(of(rgb, data).unwrap_err().to_string().contains("RGBTo01"));
        let unknown = [f32::NAN, -10.0, f32::INFINITY, 30.0];
        assert_eq!(of(unit, unknown).unwrap(), [0.0, 0.0, 0.0, 1.0]);
    }
}
