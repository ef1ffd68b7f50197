//! Metal artefacts: one or more dense points with bright and dark streaks.
//!
//! An imitation, not a simulation: real streaks come from photon starvation and beam hardening along the rays through
//! the metal (De Man et al., IEEE TNS 1999), and depend on everything along those rays. Here, straight lines in the
//! axial plane, evenly spaced with some jitter, alternate between bright and dark and fade with distance.

use ndarray::{ArrayViewMut2, ArrayViewMut3};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use crate::config::Augmentation;
use crate::plane::plane;

const METAL_HU: f32 = 3000.0;
/// Metal is placed in tissue; number of random positions that are tried.
const MAX_ATTEMPTS: usize = 16;
/// Values above this are tissue, not air.
const TISSUE_HU: f32 = -200.0;
/// Pairs of streaks per point.
const LINES: std::ops::RangeInclusive<usize> = 3..=6;
const HALF_WIDTH_MM: [f64; 2] = [1.0, 2.5];
/// Distance at which a streak has half its strength.
const HALF_STRENGTH_MM: f32 = 40.0;

/// The metal of one patch.
pub(super) struct Metal {
    points: Vec<Point>,
    spacing_mm: [f32; 3],
}

struct Point {
    /// (z, y, x) in voxels; the first one in tissue is used.
    candidates: Vec<[usize; 3]>,
    radius_mm: f32,
    lines: Vec<Line>,
}

struct Line {
    /// Direction (y, x).
    direction: [f32; 2],
    half_width_mm: f32,
    /// Positive is bright, negative is dark.
    strength_hu: f32,
}

impl Metal {
    /// Metal for a patch of `shape` (z, y, x).
    pub(super) fn drawn(
        augmentation: &Augmentation,
        shape: [usize; 3],
        spacing_mm: [f64; 3],
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let [fewest, most] = augmentation.metal_points;
        let points = (0..rng.random_range(fewest..=most))
            .map(|_| Point::drawn(augmentation, shape, rng))
            .collect();
        Self {
            points,
            spacing_mm: spacing_mm.map(|mm| mm as f32),
        }
    }

    /// Inserts the metal into a patch's values (z, y, x), in Hounsfield units above `zero_hu`; in `flat` patches into
    /// all planes alike.
    pub(super) fn insert(&self, mut values: ArrayViewMut3<f32>, zero_hu: f32, flat: bool) {
        let [thickness, ..] = self.spacing_mm;
        let (depth, ..) = values.dim();
        for point in &self.points {
            let Some(at) = point.position(&values, zero_hu, flat) else {
                continue;
            };
            // A ball: smaller, with weaker streaks, above and below its centre.
            let reach = point.radius_mm.max(thickness);
            for z in 0..depth {
                let away = match flat {
                    true => 0.0,
                    false => (z as f32 - at[0] as f32) * thickness / reach,
                };
                let share = 1.0 - away * away;
                if share > 0.0 {
                    let metal = METAL_HU - zero_hu;
                    point.draw(plane(&mut values, z), at, self.spacing_mm, (share, metal));
                }
            }
        }
    }
}

impl Point {
    fn drawn(augmentation: &Augmentation, shape: [usize; 3], rng: &mut ChaCha8Rng) -> Self {
        let between = |[low, high]: [f64; 2], rng: &mut ChaCha8Rng| {
            (low + (high - low) * rng.random::<f64>()) as f32
        };
        let candidates = (0..MAX_ATTEMPTS)
            .map(|_| shape.map(|length| rng.random_range(0..length.max(1))))
            .collect();
        let radius_mm = between(augmentation.metal_radius_mm, rng);
        // An even number: as many bright streaks as dark ones.
        let count = 2 * rng.random_range(LINES);
        let first = std::f32::consts::PI * rng.random::<f32>();
        let lines = (0..count)
            .map(|line| {
                let jitter = 0.6 * (rng.random::<f32>() - 0.5);
                let angle = (line as f32 + jitter) * std::f32::consts::PI / count as f32;
                let (sin, cos) = (first + angle).sin_cos();
                let sign = if line % 2 == 0 { 1.0 } else { -1.0 };
                Line {
                    direction: [sin, cos],
                    half_width_mm: between(HALF_WIDTH_MM, rng),
                    strength_hu: sign * between(augmentation.metal_streak_hu, rng),
                }
            })
            .collect();
        Self {
            candidates,
            radius_mm,
            lines,
        }
    }

    /// Position of the point in the patch; `None` if the patch is empty.
    fn position(
        &self,
        values: &ArrayViewMut3<f32>,
        zero_hu: f32,
        flat: bool,
    ) -> Option<[usize; 3]> {
        let (depth, ..) = values.dim();
        let seen = |[z, y, x]: [usize; 3]| {
            let z = if flat { depth / 2 } else { z };
            values.get([z, y, x]).copied()
        };
        // Exactly 0 is padding beyond the volume.
        let shows = |v: f32| v != 0.0 && v + zero_hu > TISSUE_HU;
        let tissue = |at: &&[usize; 3]| seen(**at).is_some_and(shows);
        let chosen = self
            .candidates
            .iter()
            .find(tissue)
            .or(self.candidates.last())?;
        seen(*chosen).map(|_| *chosen)
    }

    /// Draws the streaks at a `share` of their strength, then the disc of metal, into one plane.
    fn draw(
        &self,
        mut plane: ArrayViewMut2<f32>,
        [_, y, x]: [usize; 3],
        [_, down_mm, along_mm]: [f32; 3],
        (share, metal): (f32, f32),
    ) {
        let radius = self.radius_mm * share.sqrt();
        for (row, mut values) in plane.outer_iter_mut().enumerate() {
            let away = (row as f32 - y as f32) * down_mm;
            for line in &self.lines {
                let (from, to) = line.columns(away, along_mm, x as f32, values.len());
                for (column, value) in values.iter_mut().enumerate().take(to).skip(from) {
                    let across = (column as f32 - x as f32) * along_mm;
                    *value += share * line.at([away, across]);
                }
            }
            let half = (radius * radius - away * away).max(0.0).sqrt();
            if half > 0.0 || row == y {
                for (column, value) in values.iter_mut().enumerate() {
                    if ((column as f32 - x as f32) * along_mm).abs() <= half {
                        *value = metal;
                    }
                }
            }
        }
    }
}

impl Line {
    /// The columns that the line touches (start, end) in a row `away` mm from its point.
    fn columns(&self, away: f32, along_mm: f32, x: f32, count: usize) -> (usize, usize) {
        let [down, along] = self.direction;
        let bound = |v: f32| v.clamp(0.0, count as f32) as usize;
        if down.abs() < 1e-3 {
            let touched =
                (away * along).abs() < self.half_width_mm + count as f32 * along_mm * 1e-3;
            return (0, if touched { count } else { 0 });
        }
        let middle = away * along / down;
        let half = (self.half_width_mm / down).abs();
        let column = |mm: f32| x + mm / along_mm;
        (
            bound(column(middle - half).ceil()),
            bound(column(middle + half).floor() + 1.0),
        )
    }

    /// Strength at (y, x) in mm from the point.
    fn at(&self, [y, x]: [f32; 2]) -> f32 {
        let [down, along] = self.direction;
        let off = (y * along - x * down) / self.half_width_mm;
        let share = (1.0 - off * off).max(0.0);
        let far = (y * down + x * along).abs() / HALF_STRENGTH_MM;
        self.strength_hu * share * share / (1.0 + far)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, s};
    use rand::SeedableRng;

    fn metal(seed: u64, points: usize) -> Metal {
        let augmentation = Augmentation {
            metal_points: [points; 2],
            metal_streak_hu: [400.0, 400.0],
            ..Augmentation::default()
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        Metal::drawn(&augmentation, [9, 60, 60], [3.0, 1.0, 1.0], &mut rng)
    }

    #[test]
    fn streaks_brighten_and_darken_and_fade_from_the_metal() {
        for seed in 0..5 {
            let before = Array3::from_elem((9, 60, 60), 2000.0f32);
            let mut values = before.clone();
            let metal = metal(seed, 1);
            metal.insert(values.view_mut(), -1500.0, false);
            let [z, y, x] = metal.points[0].candidates[0];
            assert_eq!(values[[z, y, x]], METAL_HU + 1500.0);
            let changes = &values - &before;
            // Where lines cross beside the metal, two of one sign may add up; elsewhere no change is larger than one
            // streak.
            let bright = changes
                .iter()
                .filter(|v| **v > 100.0 && **v < 900.0)
                .count();
            let dark = changes.iter().filter(|v| **v < -100.0).count();
            assert!(bright > 20 && dark > 20, "{bright} {dark}");
            let at = |radius: std::ops::Range<f32>| {
                let plane = changes.slice(s![z, .., ..]);
                let ring = plane.indexed_iter().filter(|((row, column), _)| {
                    let away = [*row as f32 - y as f32, *column as f32 - x as f32];
                    radius.contains(&away[0].hypot(away[1]))
                });
                let all: Vec<f32> = ring.map(|(_, v)| v.abs()).collect();
                all.iter().sum::<f32>() / all.len() as f32
            };
            assert!(at(8.0..14.0) > 1.3 * at(24.0..34.0));
            // A ball: no change far above and below.
            let far = (z + 4) % 9;
            if far.abs_diff(z) > 2 {
                assert!(changes.slice(s![far, .., ..]).iter().all(|v| *v == 0.0));
            }
        }
    }

    #[test]
    fn in_flat_patches_metal_goes_through_all_planes() {
        let mut values = Array3::from_elem((3, 60, 60), 2000.0f32);
        metal(7, 2).insert(values.view_mut(), -1500.0, true);
        let first = values.slice(s![0, .., ..]);
        assert!(first.iter().any(|v| *v == METAL_HU + 1500.0));
        assert_eq!(first, values.slice(s![1, .., ..]));
        assert_eq!(first, values.slice(s![2, .., ..]));
    }

    #[test]
    fn a_rows_columns_are_all_that_a_line_touches() {
        for point in metal(3, 2).points {
            for line in point.lines {
                for row in 0..60 {
                    let away = row as f32 - 30.0;
                    let (from, to) = line.columns(away, 0.8, 20.0, 50);
                    for column in (0..50).filter(|c| !(from..to).contains(c)) {
                        let strength = line.at([away, (column as f32 - 20.0) * 0.8]);
                        assert!(strength.abs() < 1e-3, "{strength}");
                    }
                }
            }
        }
    }
}
