//! One patient: the sizes and attenuations that vary from case to case.

use rand::Rng;

use crate::vectors::{Point, Rotation, rotation};

/// Lengths in mm, in a frame with x to the patient's right, y to the front, z to the head, and its
/// origin amid the abdomen at the height of the first lumbar vertebra.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patient {
    /// 0 = the smallest, 1 = the largest.
    pub size: f64,
    /// Stature relative to the nominal one; scales lengths along z and of bones.
    pub scale: f64,
    /// Half axes (x, y) of the skin, of the muscles below the fat, and of the cavity within.
    pub skin: [f64; 2],
    pub muscle: [f64; 2],
    pub cavity: [f64; 2],
    /// Height of the diaphragm's dome.
    pub dome: f64,
    /// y of the centres of the vertebral bodies.
    pub spine_y: f64,
    /// How the patient lies: body to table frame.
    pub pose: Rotation,
    pub fat_hu: f64,
    pub muscle_hu: f64,
    pub blood_hu: f64,
}

impl Patient {
    /// Draws a patient from `rng`.
    pub fn draw(rng: &mut impl Rng) -> Self {
        let size = rng.random_range(0.0..1.0);
        let scale = 0.86 + 0.15 * size + rng.random_range(-0.03..0.03);
        let half = 122.0 + 28.0 * size + rng.random_range(-4.0..4.0);
        let skin = [half, half * rng.random_range(0.66..0.72)];
        let fat = rng.random_range(7.0..18.0);
        let muscle = [skin[0] - fat, skin[1] - 0.8 * fat];
        let wall = rng.random_range(11.0..14.0);
        let cavity = [muscle[0] - wall, muscle[1] - 0.8 * wall];
        Self {
            size,
            scale,
            skin,
            muscle,
            cavity,
            dome: 95.0 * scale,
            spine_y: -0.42 * muscle[1],
            pose: rotation([
                rng.random_range(-4.0..4.0),
                rng.random_range(-4.0..4.0),
                rng.random_range(-6.0..6.0),
            ]),
            fat_hu: rng.random_range(-112.0..-95.0),
            muscle_hu: rng.random_range(48.0..62.0),
            blood_hu: rng.random_range(135.0..190.0),
        }
    }

    /// The point at the given shares of the cavity's half axes, `z` mm (nominal) above the origin.
    pub fn place(&self, x_share: f64, y_share: f64, z: f64) -> Point {
        [
            x_share * self.cavity[0],
            y_share * self.cavity[1],
            z * self.scale,
        ]
    }

    /// Half axes of a dome that keeps `gap_mm` to the wall of the abdomen.
    pub fn dome_inside(&self, gap_mm: f64) -> Point {
        [
            self.cavity[0] - gap_mm,
            self.cavity[1] - gap_mm,
            self.dome - gap_mm,
        ]
    }
}
