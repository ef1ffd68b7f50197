//! From a CT volume to network input: windows, resampling to the network's grid, padded slices.

pub use crate::window::Window;

use ndarray::{Array3, Array4, Array5, ArrayView4, Axis, s};

use super::normalisation::Scaling;
use crate::resample::{Interpolation, resample_array};
use crate::space::{Grid, Volume};
use ctseg_base::{Error, Result};

/// Input channels on `onto`: the volume is clamped to the span of the windows, resampled once and scaled by each of
/// `scalings`. Voxels of `onto` beyond the volume repeat its border; non-finite voxels become the low end of the span.
///
/// # Shapes
/// output: (channel, z, y, x), one channel per scaling
///
/// # Errors
/// No window, an empty window, or grids that are not parallel.
pub fn input_channels(
    volume: &Volume,
    onto: &Grid,
    scalings: &[Scaling],
    interpolation: Interpolation,
) -> Result<Array4<f32>> {
    let windows: Vec<Window> = scalings.iter().map(|scaling| scaling.window).collect();
    if windows.is_empty()
        || windows
            .iter()
            .any(|w| w.low_hu.partial_cmp(&w.high_hu) != Some(std::cmp::Ordering::Less))
    {
        return Err(Error::invalid(format!(
            "windows_hu = {windows:?} cannot be used; expected at least one [low, high] with low < high"
        )));
    }
    let resampled = clamped_onto(volume, onto, span(scalings), interpolation)?;
    let [z, y, x] = onto.shape_zyx();
    let mut channels = Array4::zeros((scalings.len(), z, y, x));
    for (scaling, mut channel) in scalings.iter().zip(channels.axis_iter_mut(Axis(0))) {
        ndarray::Zip::from(&mut channel)
            .and(&resampled)
            .par_for_each(|to, hu| *to = scaling.of_hu(*hu));
    }
    Ok(channels)
}

/// The span of all windows, from the lowest low end to the highest high end.
fn span(scalings: &[Scaling]) -> Window {
    let none = [f32::INFINITY, f32::NEG_INFINITY];
    let span = scalings.iter().fold(none, |[low, high], scaling| {
        [
            low.min(scaling.window.low_hu),
            high.max(scaling.window.high_hu),
        ]
    });
    span.into()
}

/// The volume clamped to a range, then resampled. Clamping first keeps air, metal and teeth from ringing into soft
/// tissue.
fn clamped_onto(
    volume: &Volume,
    onto: &Grid,
    range: Window,
    interpolation: Interpolation,
) -> Result<Array3<f32>> {
    let clamped = volume.data.mapv(|hu| range.clamped(hu));
    resample_array(clamped.view(), &volume.grid, onto, interpolation)
}

/// A volume's Hounsfield units on `onto`, clamped to the span of the windows extended by `reach_hu` on both ends, so
/// that augmentation can shift values by up to `reach_hu` into a window. Returns the padding value `zero_hu` and the
/// values minus `zero_hu`, so that 0 stands for voxels beyond the volume. `zero_hu` is the lowest value of the range
/// (air) for windows, and the first mean for other scalings; then no voxel of the volume is exactly 0.
///
/// # Shapes
/// output: (z, y, x)
///
/// # Errors
/// Grids that are not parallel.
pub fn relative_hounsfield(
    volume: &Volume,
    onto: &Grid,
    scalings: &[Scaling],
    reach_hu: f32,
    interpolation: Interpolation,
) -> Result<(f32, Array3<f32>)> {
    /// Negligible, but not 0.
    const EPSILON_HU: f32 = 1e-3;
    let Window { low_hu, high_hu } = span(scalings);
    let lowest = low_hu - reach_hu;
    let range = [lowest, high_hu + reach_hu].into();
    let mut values = clamped_onto(volume, onto, range, interpolation)?;
    let zero_hu = match scalings.iter().find(|scaling| !scaling.is_plain()) {
        None => lowest,
        Some(scaling) => scaling.mean_hu,
    };
    let smallest = if zero_hu == lowest { 0.0 } else { EPSILON_HU };
    values.par_mapv_inplace(|hu| {
        if hu == zero_hu {
            smallest
        } else {
            hu - zero_hu
        }
    });
    Ok((zero_hu, values))
}

/// `size` rounded up to a multiple of `multiple`.
pub fn padded_size(size: usize, multiple: usize) -> usize {
    size.div_ceil(multiple.max(1)) * multiple.max(1)
}

/// The slice indices from `z - neighbours` to `z + neighbours`, clamped to a volume of `depth` slices, so that its end
/// slices repeat.
pub fn neighbour_slices(z: usize, neighbours: usize, depth: usize) -> impl Iterator<Item = usize> {
    let last = depth.saturating_sub(1);
    (z..=z + 2 * neighbours).map(move |at| at.saturating_sub(neighbours).min(last))
}

/// Copies the axial slices `slices` of `channels` into one contiguous batch, each with `neighbours` slices on both
/// sides ([`neighbour_slices`]) and zero-padded at the high end to `size` (y, x).
///
/// # Shapes
/// - `channels`: (channel, z, y, x), y and x at most `size`
/// - output: (slice, channel, 2 · neighbours + 1, y, x), flattened
pub fn slice_batch(
    channels: ArrayView4<f32>,
    slices: &[usize],
    neighbours: usize,
    size: [usize; 2],
) -> Vec<f32> {
    let (count, depth, height, width) = channels.dim();
    let stack = 2 * neighbours + 1;
    let mut batch = Array5::zeros((slices.len(), count, stack, size[0], size[1]));
    for (mut to, z) in batch.axis_iter_mut(Axis(0)).zip(slices) {
        for (at, z) in neighbour_slices(*z, neighbours, depth).enumerate() {
            to.slice_mut(s![.., at, ..height, ..width])
                .assign(&channels.slice(s![.., z, .., ..]));
        }
    }
    batch.into_raw_vec_and_offset().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::normalisation::Normalisation;

    fn volume() -> Volume {
        let grid = Grid::with_spacing([3, 2, 2], [2.0, 2.0, 5.0]);
        let data = Array3::from_shape_vec(
            (2, 2, 3),
            vec![
                -1000.0,
                -200.0,
                50.0,
                300.0,
                3000.0,
                f32::NAN,
                0.0,
                0.0,
                0.0,
                0.0,
                0.0,
                f32::INFINITY,
            ],
        )
        .unwrap();
        Volume { grid, data }
    }

    #[test]
    fn windows_become_channels_between_0_and_1() {
        let volume = volume();
        let windows = [Window::default(), Window::from([0.0, 100.0])];
        let scalings = Normalisation::default().scalings(&windows, &volume);
        let channels =
            input_channels(&volume, &volume.grid, &scalings, Interpolation::Cubic).unwrap();
        let first: Vec<f32> = channels.slice(s![0, 0, .., ..]).iter().copied().collect();
        assert_eq!(first, [0.0, 0.0, 0.5, 1.0, 1.0, 0.0]);
        let second: Vec<f32> = channels.slice(s![1, 0, .., ..]).iter().copied().collect();
        assert_eq!(second, [0.0, 0.0, 0.5, 1.0, 1.0, 0.0]);
        assert!(channels.iter().all(|v| (0.0..=1.0).contains(v)));
    }

    #[test]
    fn an_empty_window_is_refused() {
        for wrong in [
            vec![],
            vec![Window::from([10.0, 10.0])],
            vec![Window::from([f32::NAN, 1.0])],
        ] {
            let volume = volume();
            let wrong = Normalisation::default().scalings(&wrong, &volume);
            assert!(input_channels(&volume, &volume.grid, &wrong, Interpolation::Linear).is_err());
        }
    }

    #[test]
    fn slices_are_padded_at_their_high_end() {
        let channels = Array4::from_shape_fn((2, 3, 2, 3), |(c, z, y, x)| {
            (c * 1000 + z * 100 + y * 10 + x) as f32
        });
        let batch = slice_batch(channels.view(), &[2, 0], 0, [4, 4]);
        assert_eq!(batch.len(), 2 * 2 * 16);
        assert_eq!(
            &batch[..8],
            [200.0, 201.0, 202.0, 0.0, 210.0, 211.0, 212.0, 0.0]
        );
        assert_eq!(batch[16], 1200.0);
        assert_eq!(batch[32 + 1], 1.0);
        assert_eq!(
            (padded_size(17, 16), padded_size(16, 16), padded_size(1, 8)),
            (32, 16, 8)
        );
    }

    #[test]
    fn slices_are_stacked_with_their_neighbours() {
        let channels =
            Array4::from_shape_fn((2, 4, 1, 1), |(c, z, _, _)| (c * 1000 + z * 100) as f32);
        let batch = slice_batch(channels.view(), &[0, 2], 2, [1, 1]);
        let expected = [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3]]
            .map(|zs| [0, 1000].map(|channel| zs.map(|z: usize| (channel + 100 * z) as f32)));
        assert_eq!(batch, expected.concat().concat());
    }
}
