//! Benchmark of every augmentation alone and of all together, on one thread; prints one JSON line with patches per
//! second of CPU time for each size. `scripts/bench_augment.py` compares them with other libraries.
//!
//! Arguments: seconds per measurement (default 1), then names of sizes or transforms (default all).

use std::time::Instant;

use ctseg_augment::{
    Augmentation, FlipAxis, Hounsfield, SliceCrop, SliceSource, VolumeCrop, VolumeSource,
};
use ctseg_image::preprocess::channels::Window;
use ctseg_image::preprocess::normalisation::Scaling;
use ndarray::{Array3, Array4, Axis};
use serde_json::{Map, Value, json};

/// Name, sides (z, y, x), image channels.
const SIZES: [(&str, [usize; 3], usize); 4] = [
    ("192x192x3", [1, 192, 192], 3),
    ("256x256x3", [1, 256, 256], 3),
    ("48x80x80x1", [48, 80, 80], 1),
    ("96x96x96x1", [96, 96, 96], 1),
];

fn main() {
    // Cargo passes --bench to every benchmark.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let seconds = arguments
        .first()
        .map_or(1.0, |text| text.parse().expect("seconds"));
    let wanted = |name: &str| {
        let names = arguments.get(1..).unwrap_or_default();
        names.is_empty() || names.iter().any(|n| n == name)
    };
    let any_size = SIZES.iter().any(|(name, ..)| {
        let names = arguments.get(1..).unwrap_or_default();
        names.iter().any(|n| n == name)
    });
    let mut report = Map::new();
    for (size, sides, channels) in SIZES {
        if any_size && !wanted(size) {
            continue;
        }
        let subject = Subject::new(sides, channels);
        let mut rates = Map::new();
        for (name, augmentation) in changes(sides) {
            if any_size || wanted(name) {
                rates.insert(name.to_owned(), json!(subject.rate(&augmentation, seconds)));
            }
        }
        report.insert(size.to_owned(), Value::Object(rates));
    }
    println!("{}", Value::Object(report));
}

/// Every transform with probability 1, for patches with these sides along z, y and x.
fn all_changes(sides: [usize; 3]) -> Augmentation {
    let sigma = sides[2] as f64 / 10.0;
    Augmentation {
        rotation_probability: 1.0,
        scale_probability: 1.0,
        elastic_probability: 1.0,
        elastic_sigma_mm: [sigma; 2],
        elastic_magnitude_mm: [4.0; 2],
        flip_axes: match sides[0] {
            1 => vec![FlipAxis::Y, FlipAxis::X],
            _ => vec![FlipAxis::Z, FlipAxis::Y, FlipAxis::X],
        },
        noise_probability: 1.0,
        noise_sd: [0.05; 2],
        blur_probability: 1.0,
        blur_sigma_pixels: [0.75; 2],
        brightness_probability: 1.0,
        brightness: [1.2; 2],
        contrast_probability: 1.0,
        contrast: [1.2; 2],
        low_resolution_probability: 1.0,
        low_resolution: [0.75; 2],
        field_of_view_probability: 1.0,
        hu_shift_probability: 1.0,
        metal_probability: 1.0,
        coarse_dropout_probability: 1.0,
        gamma_probability: 1.0,
        gamma: [1.2; 2],
        ..Augmentation::none()
    }
}

/// Every transform alone with probability 1, in the middle of its usual range; all of them; and the defaults.
fn changes(sides: [usize; 3]) -> Vec<(&'static str, Augmentation)> {
    let none = Augmentation::none();
    let all = all_changes(sides);
    let mut changes = vec![("cut", none.clone())];
    macro_rules! alone {
        ($name:literal, $($field:ident),+) => {
            changes.push(($name, Augmentation { $($field: all.$field.clone()),+, ..none.clone() }));
        };
    }
    alone!(
        "rotation and scale",
        rotation_probability,
        scale_probability
    );
    alone!(
        "elastic",
        elastic_probability,
        elastic_sigma_mm,
        elastic_magnitude_mm
    );
    alone!(
        "rotation, scale and elastic",
        rotation_probability,
        scale_probability,
        elastic_probability,
        elastic_sigma_mm,
        elastic_magnitude_mm
    );
    alone!("mirroring", flip_axes);
    alone!("noise", noise_probability, noise_sd);
    alone!("blur", blur_probability, blur_sigma_pixels);
    alone!("brightness", brightness_probability, brightness);
    alone!("contrast", contrast_probability, contrast);
    alone!("low resolution", low_resolution_probability, low_resolution);
    alone!("gamma", gamma_probability, gamma);
    alone!("coarse dropout", coarse_dropout_probability);
    alone!("field of view", field_of_view_probability);
    alone!("HU shift", hu_shift_probability);
    alone!("metal", metal_probability);
    let shared = Augmentation {
        field_of_view_probability: 0.0,
        hu_shift_probability: 0.0,
        metal_probability: 0.0,
        coarse_dropout_probability: 0.0,
        ..all.clone()
    };
    changes.push(("all that batchgeneratorsv2 has", shared));
    changes.push(("all", all));
    changes.push(("the defaults", Augmentation::default()));
    changes
}

/// A slice or volume with 1.5 times the size of its patch.
struct Subject {
    sides: [usize; 3],
    /// (channel, z, y, x)
    channels: Array4<f32>,
    labels: Array3<u16>,
    above: Array3<f32>,
}

impl Subject {
    fn new(sides: [usize; 3], count: usize) -> Self {
        let [z, y, x] = sides.map(|side| if side > 1 { side * 3 / 2 } else { 1 });
        let hu = Array3::from_shape_fn((z, y, x), |(z, y, x)| {
            let wave = (x as f32 * 0.11).sin() + (y as f32 * 0.07).cos() + (z as f32 * 0.05).sin();
            300.0 * wave
        });
        let mut channels = Array4::zeros((count, z, y, x));
        for (mut channel, window) in channels.outer_iter_mut().zip(windows()) {
            channel.assign(&hu.mapv(|hu| window.scaled(hu)));
        }
        Self {
            sides,
            channels,
            labels: Array3::from_shape_fn((z, y, x), |(z, y, x)| {
                ((z / 20 + y / 40 + x / 30) % 6) as u16
            }),
            above: hu.mapv(|hu| hu - LOWEST),
        }
    }

    /// Patches per second of CPU time.
    fn rate(&self, augmentation: &Augmentation, seconds: f64) -> f64 {
        let [z, y, x] = self.sides;
        let mut patch = Array4::zeros((self.channels.dim().0, z, y, x));
        let mut labels = Array3::zeros((z, y, x));
        let mut once = |seed: u64| match z {
            1 => {
                let mut labels = labels.index_axis_mut(Axis(0), 0);
                self.slice(augmentation, seed, &mut patch, &mut labels.view_mut());
            }
            _ => self.volume(augmentation, seed, &mut patch, &mut labels),
        };
        once(0);
        let (started, cpu) = (Instant::now(), cpu_seconds());
        let mut count = 0u64;
        while started.elapsed().as_secs_f64() < seconds || count < 3 {
            count += 1;
            once(count);
        }
        let spent = match cpu_seconds() - cpu {
            unknown if unknown <= 0.0 => started.elapsed().as_secs_f64(),
            known => known,
        };
        let rate = count as f64 / spent;
        (rate * 100.0).round() / 100.0
    }

    fn corner(&self, seed: u64) -> [usize; 3] {
        self.sides.map(|side| seed as usize % (side / 2).max(1))
    }

    fn slice(
        &self,
        augmentation: &Augmentation,
        seed: u64,
        patch: &mut Array4<f32>,
        labels: &mut ndarray::ArrayViewMut2<u16>,
    ) {
        let [_, y, x] = self.sides;
        let [_, top, left] = self.corner(seed);
        let cut = SliceCrop {
            corner: [top, left],
            size: [y, x],
            spacing_mm: [1.0; 2],
            image_channels: self.channels.dim().0,
        };
        let scalings = scalings();
        let source = SliceSource {
            slices: &[self.channels.index_axis(Axis(1), 0)],
            labels: self.labels.index_axis(Axis(0), 0),
            hu: Some(Hounsfield {
                above: vec![self.above.index_axis(Axis(0), 0)],
                zero_hu: LOWEST,
            }),
            scalings: &scalings[..self.channels.dim().0],
        };
        augmentation.fill(&cut, seed, &source, (patch.view_mut(), labels.view_mut()));
        std::hint::black_box((patch, labels));
    }

    fn volume(
        &self,
        augmentation: &Augmentation,
        seed: u64,
        patch: &mut Array4<f32>,
        labels: &mut Array3<u16>,
    ) {
        let cut = VolumeCrop {
            corner: self.corner(seed),
            size: self.sides,
            spacing_mm: [1.0; 3],
            image_channels: self.channels.dim().0,
        };
        let scalings = scalings();
        let source = VolumeSource {
            channels: self.channels.view(),
            labels: self.labels.view(),
            hu: Some(Hounsfield {
                above: self.above.view(),
                zero_hu: LOWEST,
            }),
            scalings: &scalings[..self.channels.dim().0],
        };
        augmentation.fill_volume(&cut, seed, &source, (patch.view_mut(), labels.view_mut()));
        std::hint::black_box((patch, labels));
    }
}

const LOWEST: f32 = -1500.0;

fn windows() -> Vec<Window> {
    [[-160.0, 240.0], [-200.0, 1200.0], [-1000.0, 400.0]]
        .map(Window::from)
        .to_vec()
}

fn scalings() -> Vec<Scaling> {
    let scaling = |window: Window| Scaling {
        window,
        mean_hu: window.low_hu,
        sd_hu: window.high_hu - window.low_hu,
    };
    windows().into_iter().map(scaling).collect()
}

/// CPU time of this thread so far, in seconds (Linux; otherwise 0).
fn cpu_seconds() -> f64 {
    let known = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = known.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}
