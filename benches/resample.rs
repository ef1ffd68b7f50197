//! Benchmark of resampling; prints one JSON line for scripts/bench_resample.py.
//!
//! Arguments: repetitions, source shape and target shape as x,y,z, and optionally a file of raw little-endian float32
//! voxels (x fastest; otherwise the volume is generated) and an output file for the cubic result.

use std::time::Instant;

use ctseg_image::resample::{
    Interpolation, LabelInterpolation, resample_array, resample_labels, restore_exclusive,
};
use ctseg_image::space::{Grid, LabelMap};
use ndarray::{Array3, Array4};

fn main() {
    // Cargo passes --bench to every benchmark.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let repetitions = arguments
        .first()
        .map_or(5, |a| a.parse().expect("repetitions"));
    let source = Grid::with_spacing(shape(arguments.get(1), [256, 256, 150]), [1.0, 1.0, 2.0]);
    let target = source.resized(shape(arguments.get(2), [197, 197, 115]));
    let data = match arguments.get(3) {
        Some(path) => read(path, &source),
        None => generated(&source),
    };
    let cubic = || resample_array(data.view(), &source, &target, Interpolation::Cubic);
    let linear = || resample_array(data.view(), &source, &target, Interpolation::Linear);
    let mut report = serde_json::json!({
        "source": source.shape, "target": target.shape, "threads": rayon::current_num_threads(),
        "cubic_s": best_of(repetitions, || cubic().expect("cubic").len()),
        "linear_s": best_of(repetitions, || linear().expect("linear").len()),
    });
    let labels = LabelMap {
        grid: source,
        data: data.mapv(|hu| (hu / 250.0).clamp(0.0, 20.0) as u16),
    };
    let one_hot = || resample_labels(&labels, &target, LabelInterpolation::OneHotLinear);
    report["labels_s"] = best_of(repetitions, || one_hot().expect("labels").data.len()).into();
    let structures = 12;
    let [z, y, x] = target.shape_zyx();
    let logits = Array4::from_shape_fn((structures, z, y, x), |(s, z, y, x)| {
        let centre = |axis: usize, n: usize| ((s * 7 + axis * 5) % 12) as f32 / 12.0 * n as f32;
        let away = [(z, centre(0, z)), (y, centre(1, y)), (x, centre(2, x))];
        40.0 - away
            .iter()
            .map(|(at, to)| (*at as f32 - to).abs())
            .fold(0.0, f32::max)
    });
    let values: Vec<u16> = (1..=structures as u16).collect();
    let restore = || restore_exclusive(logits.view(), &target, &source, &values);
    report["restore_12_s"] = best_of(repetitions, || restore().expect("restore").data.len()).into();
    if let Some(path) = arguments.get(4) {
        let bytes: Vec<u8> = cubic()
            .expect("cubic")
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        std::fs::write(path, bytes).expect("a file for the result");
    }
    println!("{report}");
}

fn shape(argument: Option<&String>, default: [usize; 3]) -> [usize; 3] {
    let Some(argument) = argument else {
        return default;
    };
    let sizes: Vec<usize> = argument
        .split(',')
        .map(|n| n.parse().expect("x,y,z"))
        .collect();
    sizes.try_into().expect("x,y,z")
}

fn read(path: &str, grid: &Grid) -> Array3<f32> {
    let bytes = std::fs::read(path).expect("a file of voxels");
    let (values, _) = bytes.as_chunks::<4>();
    let values = values.iter().map(|v| f32::from_le_bytes(*v)).collect();
    Array3::from_shape_vec(grid.shape_zyx(), values).expect("number of voxels of the shape")
}

/// Smooth structure with sharp edges, in the value range of CT.
fn generated(grid: &Grid) -> Array3<f32> {
    Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| {
        let wave = (x as f32 * 0.11).sin() + (y as f32 * 0.07).cos() + (z as f32 * 0.23).sin();
        if wave > 1.0 {
            900.0 + 100.0 * wave
        } else {
            300.0 * wave - 400.0
        }
    })
}

fn best_of(repetitions: usize, mut work: impl FnMut() -> usize) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..repetitions.max(1) {
        let start = Instant::now();
        std::hint::black_box(work());
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
