//! Times augmentation on one thread: one JSON line with patches per second.
//!
//! Arguments: patches (2000 by default), side of the patch in pixels (192).

use std::time::Instant;

use ctseg::arrays::augmentation::{Augmentation, Cut};
use ndarray::{Array2, Array3, Axis};

fn main() {
    // Cargo passes --bench to every benchmark.
    let arguments: Vec<u64> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .map(|a| a.parse().expect("a number"))
        .collect();
    let patches = arguments.first().copied().unwrap_or(2000);
    let side = arguments.get(1).copied().unwrap_or(192) as usize;
    let always = |probability: f64| Augmentation {
        rotation_probability: probability,
        scale_probability: probability,
        ..Augmentation::none()
    };
    let report = serde_json::json!({
        "side": side, "channels": 2, "patches": patches,
        "cut_only_per_s": rate(&Augmentation::none(), side, patches),
        "always_turned_per_s": rate(&always(1.0), side, patches),
        "defaults_per_s": rate(&Augmentation::default(), side, patches),
    });
    println!("{report}");
}

/// Patches per second from a larger slice, two image channels.
fn rate(augmentation: &Augmentation, side: usize, patches: u64) -> f64 {
    let whole = side * 3 / 2;
    let slice = Array3::from_shape_fn((2, whole, whole), |(c, y, x)| {
        let wave = (x as f32 * 0.11).sin() + (y as f32 * 0.07).cos() + c as f32 * 0.3;
        (0.5 + 0.3 * wave).clamp(0.0, 1.0)
    });
    let labels = Array2::from_shape_fn((whole, whole), |(y, x)| ((y / 40 + x / 30) % 6) as u16);
    let mut patch = Array3::zeros((2, side, side));
    let mut patch_labels = Array2::zeros((side, side));
    let begun = Instant::now();
    for seed in 0..patches {
        let cut = Cut {
            corner: [seed as usize % (side / 2), side / 4],
            size: [side, side],
            spacing_mm: [2.0, 2.0],
            image_channels: 2,
        };
        augmentation.fill(
            &cut,
            seed,
            (&[slice.view()], labels.view()),
            (
                patch.view_mut().insert_axis(Axis(1)),
                patch_labels.view_mut(),
            ),
        );
        std::hint::black_box((&patch, &patch_labels));
    }
    (patches as f64 / begun.elapsed().as_secs_f64()).round()
}
