//! Properties that hold for any volume; the values themselves are checked in tests/image/resample_golden.rs.
//!
//! Over 400 lines: the properties of intensities, labels and restored logits share generated grids and volumes.

use ndarray::{Array3, Array4, Axis, Zip, s};
use proptest::prelude::*;

use super::range::value_range;
use super::*;
use crate::space::{Grid, LabelMap, Orientation, VoxelBox};

const ALL: [Interpolation; 3] = [
    Interpolation::Nearest,
    Interpolation::Linear,
    Interpolation::Cubic,
];

/// Repeatable noise in [0, 1).
fn noise(seed: u64, index: usize) -> f32 {
    let mut state = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    for _ in 0..2 {
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    }
    (state >> 40) as f32 / (1u64 << 24) as f32
}

fn noise_array(seed: u64, shape_xyz: [usize; 3]) -> Array3<f32> {
    let mut index = 0;
    Array3::from_shape_simple_fn((shape_xyz[2], shape_xyz[1], shape_xyz[0]), || {
        index += 1;
        noise(seed, index) * 2000.0 - 1000.0
    })
}

fn oblique(shape: [usize; 3]) -> Grid {
    let (sin, cos) = 20f64.to_radians().sin_cos();
    Grid {
        shape,
        affine: [
            [-0.8 * cos, 1.1 * sin, 0.0, 90.0],
            [-0.8 * sin, -1.1 * cos, 0.0, 120.5],
            [0.0, 0.0, 3.0, -700.25],
        ],
    }
}

/// The same voxels in another orientation, permuted voxel by voxel.
fn reoriented<T: Copy>(data: &Array3<T>, grid: &Grid, target: Orientation) -> (Array3<T>, Grid) {
    let turned = grid.reoriented(target);
    let map = turned.map_to(grid).unwrap();
    let [z, y, x] = turned.shape_zyx();
    let moved = Array3::from_shape_fn((z, y, x), |(z, y, x)| {
        let mut from = [0; 3];
        for (along, index) in map.iter().zip([x, y, z]) {
            from[along.axis] = (along.scale * index as f64 + along.offset) as usize;
        }
        data[[from[2], from[1], from[0]]]
    });
    (moved, turned)
}

fn largest_difference(a: &Array3<f32>, b: &Array3<f32>) -> f32 {
    assert_eq!(a.shape(), b.shape());
    Zip::from(a)
        .and(b)
        .fold(0.0, |worst, a, b| worst.max((a - b).abs()))
}

#[test]
fn shared_voxel_centres_are_copied_exactly() {
    let grid = oblique([19, 17, 18]);
    let mut data = noise_array(1, grid.shape);
    data[[3, 4, 5]] = f32::NAN;
    data[[0, 0, 0]] = f32::INFINITY;
    let bits = |array: &Array3<f32>| array.mapv(f32::to_bits);
    for orientation in Orientation::all() {
        let (moved, turned) = reoriented(&data, &grid, orientation);
        for interpolation in ALL {
            let found = resample_array(moved.view(), &turned, &grid, interpolation).unwrap();
            assert_eq!(bits(&found), bits(&data), "{orientation} {interpolation:?}");
        }
    }
    let region = VoxelBox {
        start: [2, 5, 1],
        end: [9, 11, 18],
    };
    let part = grid.cropped(&region);
    let [z, y, x] = region.ranges_zyx();
    for interpolation in ALL {
        let found = resample_array(data.view(), &grid, &part, interpolation).unwrap();
        let expected = data.slice(s![z.clone(), y.clone(), x.clone()]).to_owned();
        assert_eq!(bits(&found), bits(&expected), "{interpolation:?}");
    }
}

#[test]
fn all_48_orientations_of_a_volume_give_one_result() {
    let grid = oblique([21, 14, 9]);
    let data = noise_array(2, grid.shape);
    let labels = data.mapv(|v| ((v + 1000.0) / 500.0) as u16);
    let mut onto = grid
        .respaced([1.07, 0.83, 1.9])
        .reoriented("SPR".parse().unwrap());
    // Shifted off the common centre, where ties for the nearest voxel depend on the order of indices.
    for row in &mut onto.affine {
        row[3] += 0.017;
    }
    let one_hot = |data: Array3<u16>, grid: Grid| {
        let map = LabelMap { grid, data };
        resample_labels(&map, &onto, LabelInterpolation::OneHotLinear).unwrap()
    };
    let expected = ALL.map(|i| resample_array(data.view(), &grid, &onto, i).unwrap());
    let expected_labels = one_hot(labels.clone(), grid);
    for orientation in Orientation::all() {
        let (moved, turned) = reoriented(&data, &grid, orientation);
        for (interpolation, expected) in ALL.into_iter().zip(&expected) {
            let found = resample_array(moved.view(), &turned, &onto, interpolation).unwrap();
            let worst = largest_difference(&found, expected);
            assert!(worst < 1e-3, "{orientation} {interpolation:?}: {worst}");
        }
        let (moved, turned) = reoriented(&labels, &grid, orientation);
        assert_eq!(one_hot(moved, turned), expected_labels, "{orientation}");
    }
}

#[test]
fn a_region_is_resampled_as_in_the_whole_volume() {
    let grid = oblique([90, 40, 60]);
    let data = noise_array(3, grid.shape);
    let fine = grid.respaced([0.61, 0.97, 2.3]);
    let region = VoxelBox {
        start: [50, 20, 35],
        end: [70, 30, 48],
    };
    let [z, y, x] = region.ranges_zyx();
    for interpolation in ALL {
        let whole = resample_array(data.view(), &grid, &fine, interpolation).unwrap();
        let part =
            resample_array(data.view(), &grid, &fine.cropped(&region), interpolation).unwrap();
        let expected = whole.slice(s![z.clone(), y.clone(), x.clone()]).to_owned();
        let worst = largest_difference(&part, &expected);
        assert!(worst < 1e-3, "{interpolation:?}: {worst}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let grid = oblique([45, 37, 29]);
    let data = noise_array(4, grid.shape);
    let onto = grid.respaced([1.3, 0.7, 1.9]);
    let labels = LabelMap {
        grid,
        data: data.mapv(|v| ((v + 1000.0) / 300.0) as u16),
    };
    let logits = Array4::from_shape_fn((5, 29, 37, 45), |(s, z, y, x)| {
        noise(s as u64, (z * 37 + y) * 45 + x) - 0.6
    });
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let floats = ALL.map(|i| resample_array(data.view(), &grid, &onto, i).unwrap());
            let one_hot = resample_labels(&labels, &onto, LabelInterpolation::OneHotLinear);
            let restored = restore_exclusive(logits.view(), &grid, &onto, &[3, 1, 4, 2, 9]);
            (
                floats.map(|a| a.mapv(f32::to_bits)),
                one_hot.unwrap(),
                restored.unwrap(),
            )
        })
    };
    let alone = run(1);
    assert!(alone.2.data.iter().any(|label| *label == 9));
    for threads in [2, 3, 7] {
        assert!(run(threads) == alone, "{threads} threads");
    }
}

#[test]
fn unusable_grids_give_one_line_errors() {
    let grid = oblique([4, 5, 6]);
    let data = noise_array(5, grid.shape);
    let none = Grid {
        shape: [4, 0, 6],
        ..grid
    };
    let endless = Grid {
        shape: [usize::MAX, 2, 3],
        ..grid
    };
    let huge = Grid {
        shape: [1 << 20, 1 << 20, 1 << 20],
        ..grid
    };
    let straight = Grid::with_spacing([4, 5, 6], [1.0; 3]);
    let other = oblique([5, 4, 6]);
    for (from, onto, expected) in [
        (&grid, &straight, "not parallel"),
        (&grid, &none, "no voxels"),
        (&grid, &endless, "memory"),
        (&grid, &huge, "memory"),
        (&other, &grid, "array has [6, 5, 4]"),
    ] {
        for interpolation in ALL {
            let error = resample_array(data.view(), from, onto, interpolation).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
        let map = LabelMap {
            grid: *from,
            data: data.mapv(|v| v as u16),
        };
        assert!(resample_labels(&map, onto, LabelInterpolation::Nearest).is_err());
    }
    let logits = Array4::zeros((2, 6, 5, 4));
    for values in [&[1][..], &[1, 0], &[1, 2, 3]] {
        assert!(restore_exclusive(logits.view(), &grid, &grid, values).is_err());
    }
}

#[test]
fn interpolations_are_serialised_in_lower_case() {
    let text = serde_json::to_string(&ALL).unwrap();
    assert_eq!(text, r#"["nearest","linear","cubic"]"#);
}

/// The definition: one resampled mask per label in ascending order; `None` at ties.
fn one_hot_reference(map: &LabelMap, onto: &Grid) -> Array3<Option<u16>> {
    let mut result = Array3::from_elem(onto.shape_zyx(), Some(0));
    let mut labels: Vec<u16> = map.data.iter().copied().collect();
    labels.sort_unstable();
    labels.dedup();
    for label in labels {
        let mask = map.data.mapv(|own| f32::from(u8::from(own == label)));
        let share = resample_array(mask.view(), &map.grid, onto, Interpolation::Linear).unwrap();
        Zip::from(&mut result).and(&share).for_each(|to, share| {
            if (share - 0.5).abs() < 1e-5 {
                *to = None;
            } else if *share > 0.5 && to.is_some() {
                *to = Some(label);
            }
        });
    }
    result
}

/// The definition: every structure resampled whole, then the argmax; `None` near ties.
fn restored_reference(
    logits: &Array4<f32>,
    from: &Grid,
    onto: &Grid,
    values: &[u16],
) -> Array3<Option<u16>> {
    let map = onto.map_to(from).unwrap();
    let all: Vec<_> = logits
        .outer_iter()
        .map(|own| resample_array(own, from, onto, Interpolation::Linear).unwrap())
        .collect();
    let [z, y, x] = onto.shape_zyx();
    Array3::from_shape_fn((z, y, x), |(z, y, x)| {
        let outside = map.iter().zip([x, y, z]).any(|(along, index)| {
            let position = along.scale * index as f64 + along.offset;
            position < -0.5 || position > from.shape[along.axis] as f64 - 0.5
        });
        if outside {
            return Some(0);
        }
        let mut ranked: Vec<(f32, u16)> = all
            .iter()
            .zip(values)
            .map(|(a, v)| (a[[z, y, x]], *v))
            .collect();
        ranked.push((0.0, 0));
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        (ranked[0].0 - ranked[1].0 > 1e-5).then_some(ranked[0].1)
    })
}

fn assert_agrees(found: &Array3<u16>, expected: &Array3<Option<u16>>) {
    let wrong = Zip::from(found)
        .and(expected)
        .fold(0, |wrong, found, expected| {
            wrong + usize::from(expected.is_some_and(|expected| expected != *found))
        });
    let decided = expected.iter().filter(|label| label.is_some()).count();
    assert_eq!(wrong, 0);
    assert!(
        decided * 10 > expected.len() * 7,
        "only {decided} of {}",
        expected.len()
    );
}

#[test]
fn the_first_structure_wins_a_tie_and_background_at_probability_one_half() {
    let grid = oblique([4, 3, 2]);
    let mut logits = Array4::zeros((3, 2, 3, 4));
    logits.slice_mut(s![1.., 0, .., ..]).fill(2.5);
    logits[[0, 1, 1, 1]] = f32::NAN;
    let restored = restore_exclusive(logits.view(), &grid, &grid, &[7, 9, 8]).unwrap();
    assert!(
        restored
            .data
            .index_axis(Axis(0), 0)
            .iter()
            .all(|label| *label == 9)
    );
    assert!(
        restored
            .data
            .index_axis(Axis(0), 1)
            .iter()
            .all(|label| *label == 0)
    );
}

fn shapes() -> impl Strategy<Value = [usize; 3]> {
    [1usize..14, 1usize..14, 1usize..14]
}

fn spacings() -> impl Strategy<Value = [f64; 3]> {
    [0.4f64..2.5, 0.4f64..2.5, 1.0f64..7.0]
}

fn orientations() -> impl Strategy<Value = Orientation> {
    proptest::sample::select(Orientation::all().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_linear_ramp_is_preserved_in_the_interior(
        spacing in spacings(), turn in orientations(), slopes in [-3.0f64..3.0, -3.0..3.0, -3.0..3.0],
    ) {
        let grid = oblique([48, 46, 45]);
        let value = |p: [f64; 3]| (0..3).map(|i| slopes[i] * p[i]).sum::<f64>() as f32;
        let at = |grid: &Grid, z: usize, y: usize, x: usize| {
            value(grid.world_mm([x as f64, y as f64, z as f64]))
        };
        let data = Array3::from_shape_fn((45, 46, 48), |(z, y, x)| at(&grid, z, y, x));
        // Interior: the voxels around the centre, out of the border's reach.
        let middle = VoxelBox { start: [18; 3], end: [28; 3] };
        let onto = grid.cropped(&middle).respaced(spacing).reoriented(turn);
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            let found = resample_array(data.view(), &grid, &onto, interpolation).unwrap();
            let worst = found.indexed_iter()
                .map(|((z, y, x), v)| (v - at(&onto, z, y, x)).abs())
                .fold(0.0, f32::max);
            prop_assert!(worst < 5e-3, "{interpolation:?} off by {worst} in values up to 2000");
        }
    }

    #[test]
    fn a_constant_is_preserved(shape in shapes(), spacing in spacings(), turn in orientations(), value in -1000f32..3000.0) {
        let grid = oblique(shape);
        let onto = grid.respaced(spacing).reoriented(turn);
        let data = Array3::from_elem(grid.shape_zyx(), value);
        for interpolation in ALL {
            let found = resample_array(data.view(), &grid, &onto, interpolation).unwrap();
            prop_assert!(found.iter().all(|v| (v - value).abs() <= 2e-6 * value.abs()));
        }
        let labels = LabelMap { grid, data: data.mapv(|v| v.abs() as u16) };
        for interpolation in [LabelInterpolation::Nearest, LabelInterpolation::OneHotLinear] {
            let found = resample_labels(&labels, &onto, interpolation).unwrap();
            prop_assert!(found.data.iter().all(|label| *label == value.abs() as u16));
        }
    }

    #[test]
    fn cubic_never_leaves_the_source_range(shape in shapes(), spacing in spacings(), seed in 0u64..1000) {
        let grid = oblique(shape);
        let data = noise_array(seed, shape);
        let [low, high] = value_range(data.view());
        let found = resample_array(data.view(), &grid, &grid.respaced(spacing), Interpolation::Cubic).unwrap();
        prop_assert!(found.iter().all(|v| (low..=high).contains(v)));
    }

    #[test]
    fn one_hot_labels_match_the_definition(shape in shapes(), spacing in spacings(), turn in orientations(), seed in 0u64..1000) {
        let grid = oblique(shape);
        // Three in four voxels of a row share a label, so that a label often reaches one half.
        let data = noise_array(seed, shape).mapv(|v| if v < 500.0 { 0 } else { ((v - 400.0) / 100.0) as u16 });
        let map = LabelMap { grid, data };
        // Odd ratios avoid ties.
        let onto = grid.respaced(spacing.map(|s| s * 1.0123)).reoriented(turn);
        let found = resample_labels(&map, &onto, LabelInterpolation::OneHotLinear).unwrap();
        let expected = one_hot_reference(&map, &onto);
        let wrong = Zip::from(&found.data).and(&expected).fold(0, |n, found, expected| {
            n + usize::from(expected.is_some_and(|label| label != *found))
        });
        prop_assert_eq!(wrong, 0);
    }

    #[test]
    fn restored_labels_match_the_definition(
        shape in [3usize..14, 3usize..14, 3usize..40], spacing in spacings(), turn in orientations(),
        seed in 0u64..1000, shift in [-9.3f64..9.3, -9.3..9.3, -9.3..9.3],
    ) {
        let from = oblique(shape);
        let [z, y, x] = from.shape_zyx();
        let logits = Array4::from_shape_fn((4, z, y, x), |(s, z, y, x)| {
            // Structures cover only part of the grid.
            let inside = z % 5 > 1 || s < 2;
            let value = noise(seed + s as u64, (z * 50 + y) * 50 + x) * 8.0 - 5.0;
            if inside { value } else { -9.0 }
        });
        // The source is shifted: it covers part of the network's grid and extends beyond it.
        let mut source = from.respaced(spacing.map(|s| s * 1.0123)).reoriented(turn);
        for (row, shift) in source.affine.iter_mut().zip(shift) {
            row[3] += shift;
        }
        let found = restore_exclusive(logits.view(), &from, &source, &[5, 2, 11, 3]).unwrap();
        assert_agrees(&found.data, &restored_reference(&logits, &from, &source, &[5, 2, 11, 3]));
    }

    #[test]
    fn one_hot_logits_on_the_same_grid_give_the_labels_back(shape in shapes(), turn in orientations(), seed in 0u64..1000) {
        let values = [12u16, 3, 65535];
        let grid = oblique(shape);
        let labels = noise_array(seed, shape).mapv(|v| if v < 0.0 { 0 } else { values[(v / 334.0) as usize] });
        let mut logits = Array4::from_elem((3, shape[2], shape[1], shape[0]), -4.0f32);
        for (mut own, value) in logits.outer_iter_mut().zip(values) {
            Zip::from(&mut own).and(&labels).for_each(|to, label| if *label == value { *to = 4.0 });
        }
        let (expected, turned) = reoriented(&labels, &grid, turn);
        let restored = restore_exclusive(logits.view(), &grid, &turned, &values).unwrap();
        prop_assert_eq!(restored.data, expected);
    }
}

// As batchgenerators 0.25.5's resize_segmentation: resize_segmentation(np.array([[[3, 1]]]), (1, 1, 3), 1) is 3 1 1.
#[test]
fn the_label_with_the_largest_weight_wins_and_the_nearest_in_a_tie() {
    let of = |labels: &[u16], count: usize, rule: LabelInterpolation| -> Vec<u16> {
        let grid = Grid::with_spacing([labels.len(), 1, 1], [1.0; 3]);
        let data = Array3::from_shape_vec((1, 1, labels.len()), labels.to_vec()).unwrap();
        let onto = grid.resized([count, 1, 1]);
        let found = resample_labels(&LabelMap { grid, data }, &onto, rule).unwrap();
        found.data.iter().copied().collect()
    };
    assert_eq!(of(&[3, 1], 3, LabelInterpolation::OneHotArgmax), [3, 1, 1]);
    assert_eq!(of(&[3, 1], 3, LabelInterpolation::OneHotLinear), [3, 3, 1]);
    // None of three labels has half of the weight.
    let grid = Grid::with_spacing([2, 2, 1], [1.0; 3]);
    let data = Array3::from_shape_vec((1, 2, 2), vec![5, 5, 2, 9]).unwrap();
    let map = LabelMap { grid, data };
    let onto = grid.resized([1, 1, 1]);
    let found = resample_labels(&map, &onto, LabelInterpolation::OneHotArgmax).unwrap();
    assert_eq!(found.data[[0, 0, 0]], 5);
}
