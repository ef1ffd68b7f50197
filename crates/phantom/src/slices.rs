//! Single CT-like slices of the upper abdomen with exact labels: small, fast to train on, and not separable by a
//! threshold. Organs share their HU with bowel, stomach and muscle; size, position, outline and contrast phase vary
//! between patients.

use ndarray::Array3;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::case_rng::case_rng;
use crate::layers::{KIDNEY_LEFT, KIDNEY_RIGHT, LIVER, SPLEEN};
use crate::noise::Noise;
use ctseg_image::space::{Grid, LabelMap, Volume};

/// Pixels along each side of a slice.
pub const SLICE_SIDE: usize = 128;

pub const SLICE_SPACING_MM: f64 = 3.0;

/// Label values and names of the structures in every slice.
pub const SLICE_STRUCTURES: &[(u16, &str)] = &[
    (LIVER, "liver"),
    (SPLEEN, "spleen"),
    (KIDNEY_LEFT, "kidney_left"),
    (KIDNEY_RIGHT, "kidney_right"),
];

/// The effect of a blob on the label map.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Marks {
    Label(u16),
    /// Pixels become background.
    Background,
    /// Labels are unchanged, only HU change (fat inside a kidney).
    Unchanged,
}

/// An ellipse with a wavy outline.
#[derive(Debug, Clone)]
struct Blob {
    centre_mm: [f64; 2],
    radii_mm: [f64; 2],
    /// Cosine and sine of the rotation angle.
    axis: [f64; 2],
    /// Amplitude (relative to the radius) and phase of harmonics 2, 3 and 4 of the outline.
    waves: [(f64, f64); 3],
    hu: f64,
    marks: Marks,
}

/// One slice as a volume with one slice along z, and its label map on the same grid: x to the patient's right, y
/// anterior, `SLICE_SIDE` pixels of `SLICE_SPACING_MM` along both.
///
/// HU are integers from -1024 to 3071. The same seeds give the same bytes.
pub fn generate_slice(case_seed: u64, set_seed: u64) -> (Volume, LabelMap) {
    let mut rng = case_rng(case_seed, set_seed);
    let blobs = draw(&mut rng);
    let noise_hu = rng.random_range(14.0..24.0);
    let noise = Noise {
        seed: rng.random(),
        white_hu: noise_hu * 0.6,
        correlated_hu: noise_hu * 0.8,
    }
    .slice(0, SLICE_SIDE, SLICE_SIDE);
    let grid = Grid::with_spacing([SLICE_SIDE, SLICE_SIDE, 1], [SLICE_SPACING_MM; 3]);
    let mut hu = Array3::zeros((1, SLICE_SIDE, SLICE_SIDE));
    let mut labels = Array3::zeros((1, SLICE_SIDE, SLICE_SIDE));
    for (((_, row, column), label), noise) in labels.indexed_iter_mut().zip(noise) {
        let middle = (SLICE_SIDE as f64 - 1.0) / 2.0;
        let at = [column, row].map(|i| (i as f64 - middle) * SLICE_SPACING_MM);
        let mut value = -1000.0;
        for blob in &blobs {
            let depth_mm = blob.depth_mm(at);
            let share = (0.5 + depth_mm / SLICE_SPACING_MM).clamp(0.0, 1.0);
            value += share * (blob.hu - value);
            match blob.marks {
                Marks::Label(painted) if depth_mm > 0.0 => *label = painted,
                Marks::Background if depth_mm > 0.0 => *label = 0,
                _ => {}
            }
        }
        hu[(0, row, column)] = (value + noise).round().clamp(-1024.0, 3071.0) as f32;
    }
    (Volume { grid, data: hu }, LabelMap { grid, data: labels })
}

impl Blob {
    /// Approximate depth inside the outline; negative outside.
    fn depth_mm(&self, at: [f64; 2]) -> f64 {
        let away = [at[0] - self.centre_mm[0], at[1] - self.centre_mm[1]];
        let [cos, sin] = self.axis;
        let u = (cos * away[0] + sin * away[1]) / self.radii_mm[0];
        let v = (cos * away[1] - sin * away[0]) / self.radii_mm[1];
        let around = v.atan2(u);
        let outline: f64 = (2..)
            .zip(self.waves)
            .map(|(wave, (amplitude, phase))| amplitude * (f64::from(wave) * around + phase).cos())
            .sum();
        (1.0 + outline - u.hypot(v)) * self.radii_mm[0].min(self.radii_mm[1])
    }
}

/// Paints blobs in one patient; positions are relative to the trunk's semi-axes.
struct Drawing<'a> {
    rng: &'a mut ChaCha8Rng,
    /// Semi-axes of the trunk along x, y.
    half_mm: [f64; 2],
    middle_mm: [f64; 2],
    turn: f64,
    blobs: Vec<Blob>,
}

impl Drawing<'_> {
    /// `value`, varied by up to ±`share`.
    fn varied(&mut self, value: f64, share: f64) -> f64 {
        value * (1.0 + share * self.rng.random_range(-1.0..1.0))
    }

    /// Paints a blob at `place` (in semi-axes). `form` is the random variation: shift (in semi-axes), relative change
    /// of the radii, rotation in degrees, and amplitude of the outline's waves.
    fn paint(
        &mut self,
        place: [f64; 2],
        radii_mm: [f64; 2],
        form: [f64; 4],
        hu: f64,
        marks: Marks,
    ) {
        let [stray, vary, degrees, wavy] = form;
        let place = place.map(|p| p + stray * self.rng.random_range(-1.0..1.0));
        let (sin, cos) = self.turn.sin_cos();
        let off = [place[0] * self.half_mm[0], place[1] * self.half_mm[1]];
        let centre_mm = [
            self.middle_mm[0] + cos * off[0] - sin * off[1],
            self.middle_mm[1] + sin * off[0] + cos * off[1],
        ];
        let radii_mm = radii_mm.map(|radius| self.varied(radius, vary));
        let angle = self.turn + degrees.to_radians() * self.rng.random_range(-1.0..1.0);
        let waves = std::array::from_fn(|_| {
            let amplitude = wavy * self.rng.random_range(0.2..1.0);
            let phase = self.rng.random_range(0.0..std::f64::consts::TAU);
            (amplitude, phase)
        });
        self.blobs.push(Blob {
            centre_mm,
            radii_mm,
            axis: [angle.cos(), angle.sin()],
            waves,
            hu,
            marks,
        });
    }
}

fn draw(rng: &mut ChaCha8Rng) -> Vec<Blob> {
    let half_mm = [
        rng.random_range(140.0..172.0),
        rng.random_range(95.0..122.0),
    ];
    let middle_mm = [rng.random_range(-9.0..9.0), rng.random_range(-9.0..9.0)];
    let turn = rng.random_range(-7.0f64..7.0).to_radians();
    let mut drawing = Drawing {
        rng,
        half_mm,
        middle_mm,
        turn,
        blobs: Vec::new(),
    };
    let phase = drawing.rng.random_range(0.0..1.0);
    trunk(&mut drawing, phase);
    organs(&mut drawing, phase);
    drawing.blobs
}

/// Skin, muscle, visceral fat, spine, vessels, stomach and bowel. `phase` is the contrast enhancement, from 0 (none) to
/// 1 (full).
fn trunk(drawing: &mut Drawing, phase: f64) {
    let [x, y] = drawing.half_mm;
    let wall = drawing.rng.random_range(0.84..0.93);
    let fixed = |wavy: f64| [0.0, 0.0, 0.0, wavy];
    let off = Marks::Background;
    let muscle_hu = 50.0 + 12.0 * phase;
    drawing.paint([0.0, 0.0], [x, y], fixed(0.02), -105.0, off);
    drawing.paint(
        [0.0, 0.0],
        [wall * x, wall * y],
        fixed(0.02),
        muscle_hu,
        off,
    );
    let inner = wall - 0.09;
    drawing.paint([0.0, 0.04], [inner * x, inner * y], fixed(0.03), -95.0, off);
    for side in [-1.0, 1.0] {
        let form = [0.03, 0.15, 20.0, 0.08];
        drawing.paint([0.27 * side, -0.66], [24.0, 20.0], form, muscle_hu, off);
    }
    drawing.paint(
        [0.0, -0.55],
        [23.0, 21.0],
        [0.02, 0.1, 10.0, 0.06],
        240.0,
        off,
    );
    let aorta_hu = 42.0 + 160.0 * phase;
    drawing.paint(
        [-0.06, -0.27],
        [10.0, 10.0],
        [0.02, 0.15, 0.0, 0.02],
        aorta_hu,
        off,
    );
    let stomach_hu = drawing.rng.random_range(10.0..70.0);
    drawing.paint(
        [-0.28, 0.4],
        [42.0, 30.0],
        [0.08, 0.25, 30.0, 0.1],
        stomach_hu,
        off,
    );
    for _ in 0..drawing.rng.random_range(3..7) {
        let place = [
            drawing.rng.random_range(-0.6..0.25),
            drawing.rng.random_range(-0.25..0.55),
        ];
        let hu = drawing.rng.random_range(15.0..150.0);
        drawing.paint(place, [17.0, 15.0], [0.05, 0.35, 90.0, 0.12], hu, off);
    }
}

fn organs(drawing: &mut Drawing, phase: f64) {
    let [x, y] = drawing.half_mm;
    let hu = |drawing: &mut Drawing, plain: f64, gain: f64| {
        plain + gain * phase + drawing.rng.random_range(-9.0..9.0)
    };
    let liver_hu = hu(drawing, 56.0, 52.0);
    let form = [0.05, 0.12, 18.0, 0.09];
    drawing.paint(
        [0.4, 0.12],
        [0.4 * x, 0.52 * y],
        form,
        liver_hu,
        Marks::Label(LIVER),
    );
    let spleen_hu = hu(drawing, 48.0, 72.0);
    let form = [0.05, 0.2, 25.0, 0.08];
    drawing.paint(
        [-0.6, -0.18],
        [0.15 * x, 0.32 * y],
        form,
        spleen_hu,
        Marks::Label(SPLEEN),
    );
    let kidney_hu = hu(drawing, 32.0, 135.0);
    for (side, label) in [(-0.36, KIDNEY_LEFT), (0.38, KIDNEY_RIGHT)] {
        let form = [0.04, 0.15, 35.0, 0.06];
        drawing.paint(
            [side, -0.45],
            [29.0, 23.0],
            form,
            kidney_hu,
            Marks::Label(label),
        );
        // Fat and vessels in the renal sinus; they are labelled as kidney.
        if let Some(kidney) = drawing.blobs.last().cloned() {
            drawing.blobs.push(Blob {
                radii_mm: kidney.radii_mm.map(|radius| 0.3 * radius),
                hu: -25.0,
                marks: Marks::Unchanged,
                ..kidney
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slice_holds_every_structure() {
        for case in 0..60 {
            let (volume, labels) = generate_slice(case, 1);
            assert_eq!(volume.data.dim(), (1, SLICE_SIDE, SLICE_SIDE));
            for (value, name) in SLICE_STRUCTURES {
                let pixels = labels.data.iter().filter(|l| *l == value).count();
                assert!((80..6000).contains(&pixels), "case {case}: {name} {pixels}");
            }
            let outside = labels.data.indexed_iter().filter(|((_, y, x), l)| {
                let edge = |i: &usize| *i == 0 || *i == SLICE_SIDE - 1;
                **l > 0 && (edge(y) || edge(x))
            });
            assert_eq!(outside.count(), 0, "case {case}");
        }
    }

    #[test]
    fn no_threshold_finds_a_structure() {
        // The best HU range has a Dice far below what a network must reach.
        let mut pixels = Vec::new();
        for (volume, labels) in (0..20).map(|case| generate_slice(case, 1)) {
            pixels.extend(volume.data.into_iter().zip(labels.data));
        }
        let edges: Vec<f32> = (0..=20).map(|i| -50.0 + 15.0 * i as f32).collect();
        for (label, name) in SLICE_STRUCTURES {
            // Pixels of the organ, and all, below each edge.
            let below = edges.iter().map(|edge| {
                let dark = pixels.iter().filter(|(hu, _)| hu < edge);
                dark.fold((0.0, 0.0), |(own, all), (_, l)| {
                    (own + f64::from(u8::from(l == label)), all + 1.0)
                })
            });
            let below: Vec<(f64, f64)> = below.collect();
            let organ = pixels.iter().filter(|(_, l)| l == label).count() as f64;
            let mut best = 0.0f64;
            for (i, low) in below.iter().enumerate() {
                for high in &below[i + 1..] {
                    let (hit, marked) = (high.0 - low.0, high.1 - low.1);
                    best = best.max(2.0 * hit / (marked + organ));
                }
            }
            assert!(best < 0.65, "{name}: {best}");
        }
    }

    #[test]
    fn results_depend_on_both_seeds_alone() {
        let (volume, labels) = generate_slice(3, 1);
        let (again, labels_again) = generate_slice(3, 1);
        assert_eq!((&volume.data, &labels), (&again.data, &labels_again));
        assert_ne!(volume.data, generate_slice(4, 1).0.data);
        assert_ne!(volume.data, generate_slice(3, 2).0.data);
    }
}
