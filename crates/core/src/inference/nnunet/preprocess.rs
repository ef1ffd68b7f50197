//! The input of an nnU-Net network: `DefaultPreprocessor`'s normalisation and resampling and, in a cascade, the
//! previous stage's labels as masks.

use ndarray::parallel::prelude::*;
use ndarray::{Array3, Array4, ArrayView3, Axis, Slice, Zip, s};

use super::placement::{Placement, nonzero_mask};
use crate::inference::stage::check_memory;
use crate::recipe::{NnunetConfig, NnunetNormalisation, Recipe, header_spacing_mm};
use ctseg_base::{Error, Result};
use ctseg_image::resample::{
    LabelInterpolation, resample_array, resample_label_slices, resample_labels, resample_slices,
};
use ctseg_image::space::{Grid, LabelMap, Volume, VoxelBox};

/// The label outside the nonzero mask; `dataset_json` refuses it for structures.
const OUTSIDE: u16 = u16::MAX;

/// nnU-Net's lower bound of divisors.
const MIN_SD: f32 = 1e-8;

/// The network's input on `placement.grid`.
///
/// # Shapes
/// output: (channel, z, y, x): the volume, then a mask for each of `previous_labels`
///
/// # Errors
/// The network needs the previous stage's labels and none are given; values that the normalisation does not accept.
pub fn nnunet_input(
    recipe: &Recipe,
    nnunet: &NnunetConfig,
    volume: &Volume,
    placement: &Placement,
    previous: Option<&LabelMap>,
) -> Result<Array4<f32>> {
    check_memory(recipe, &placement.grid)?;
    let native = volume.grid.cropped(&placement.region);
    let normalised = normalised(
        nnunet.normalisation,
        part(volume.data.view(), &placement.region),
    )?;
    let [own_mm, new_mm] = spacings_mm(recipe, nnunet, &volume.grid);
    let onto = &placement.grid;
    let image = match nnunet.image_slices.axis(own_mm, new_mm) {
        _ if onto.shape == placement.native.shape => {
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
            "recipe {} needs the previous stage's labels, and none are given",
            recipe.name
        ))
    })?;
    let slices = nnunet.label_slices.axis(own_mm, new_mm);
    let labels = previous_on_grid(previous, volume, placement, slices)?;
    let mut masks = input.slice_mut(s![1.., .., .., ..]);
    for (mut mask, label) in masks.outer_iter_mut().zip(&nnunet.previous_labels) {
        Zip::from(&mut mask)
            .and(&labels.data)
            .par_for_each(|mask, found| *mask = f32::from(u8::from(found == label)));
    }
    Ok(input)
}

/// The previous stage's labels on `placement.grid`, resampled slice by slice across the axis `slices` if there is one.
fn previous_on_grid(
    previous: &LabelMap,
    volume: &Volume,
    placement: &Placement,
    slices: Option<usize>,
) -> Result<LabelMap> {
    let mut labels = LabelMap {
        grid: previous.grid.cropped(&placement.region),
        data: part(previous.data.view(), &placement.region).to_owned(),
    };
    // Background outside the nonzero mask has its own label (`crop_to_nonzero`).
    let data = part(volume.data.view(), &placement.region);
    if data.iter().any(|value| *value == 0.0) {
        Zip::from(&mut labels.data)
            .and(&nonzero_mask(data))
            .par_for_each(|label, inside| {
                if *label == 0 && !inside {
                    *label = OUTSIDE;
                }
            });
    }
    let onto = &placement.grid;
    match slices {
        Some(axis) if onto.shape != placement.native.shape => {
            resample_label_slices(&labels, onto, axis)
        }
        _ => resample_labels(&labels, onto, LabelInterpolation::OneHotArgmax),
    }
}

/// The volume's and the network's spacing, along the network's x, y, z.
fn spacings_mm(recipe: &Recipe, nnunet: &NnunetConfig, source: &Grid) -> [[f64; 3]; 2] {
    let own_mm = header_spacing_mm(&source.reoriented(nnunet.orientation(source)));
    [own_mm, recipe.nnunet_spacing_mm(own_mm)]
}

/// Crops an array (z, y, x) to a region (x, y, z).
fn part<'a, T>(mut data: ArrayView3<'a, T>, region: &VoxelBox) -> ArrayView3<'a, T> {
    for (axis, range) in region.ranges_zyx().into_iter().enumerate() {
        data.slice_axis_inplace(Axis(axis), Slice::from(range));
    }
    data
}

/// The normalised values; those that are not finite count as the lowest finite value.
fn normalised(scheme: NnunetNormalisation, data: ArrayView3<f32>) -> Result<Array3<f32>> {
    let mut values = finite(data);
    match scheme {
        NnunetNormalisation::Ct {
            low_hu,
            high_hu,
            mean_hu,
            sd_hu,
        } => {
            let sd_hu = sd_hu.max(MIN_SD);
            values.par_mapv_inplace(|hu| (hu.clamp(low_hu, high_hu) - mean_hu) / sd_hu);
        }
        NnunetNormalisation::ZScore { masked } => {
            let mask = masked.then(|| nonzero_mask(data));
            let (mean, sd) = mean_and_sd(&values, mask.as_ref());
            let sd = (sd as f32).max(MIN_SD);
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
            let span = (high - low).max(MIN_SD);
            values.par_mapv_inplace(|value| (value - low) / span);
        }
        NnunetNormalisation::RgbTo01 {} => {
            let [low, high] = ends(&values);
            if low < 0.0 || high > 255.0 {
                return Err(Error::invalid(format!(
                    "has values from {low} to {high}, and the model's RGBTo01Normalization expects 0 to 255: it was not trained on CT"
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

/// The lowest and the highest finite value; 0 if there is none.
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

/// Mean and population standard deviation inside the mask, or of all values. Summed plane by plane in order, so that
/// the result does not depend on the number of threads.
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

    // Golden values: nnunetv2 2.8.1's classes on the same numbers.
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
