//! A patient: sizes and attenuations that vary between cases.

use rand::Rng;

use crate::vectors::{Point, Rotation, rotation};

/// Lengths in mm, in a frame with x to the patient's right, y anterior, z superior, and its origin in the middle of the
/// abdomen at the level of the first lumbar vertebra.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patient {
    /// Size from 0 (smallest) to 1 (largest).
    pub size: f64,
    /// Height relative to nominal; scales bones and lengths along z.
    pub scale: f64,
    /// Semi-axes (x, y) of the skin, of the muscles below the fat, and of the cavity.
    pub skin: [f64; 2],
    pub muscle: [f64; 2],
    pub cavity: [f64; 2],
    /// Height of the diaphragm dome.
    pub dome: f64,
    /// y of the centres of the vertebral bodies.
    pub spine_y: f64,
    /// Rotation from the patient frame to the table frame.
    pub pose: Rotation,
    pub fat_hu: f64,
    pub muscle_hu: f64,
    pub blood_hu: f64,
}

impl Patient {
    /// Samples a patient.
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

    /// The point at the given fractions of the cavity's semi-axes, `z` mm (nominal) above the origin.
    pub fn place(&self, x_share: f64, y_share: f64, z: f64) -> Point {
        [
            x_share * self.cavity[0],
            y_share * self.cavity[1],
            z * self.scale,
        ]
    }

    /// Semi-axes of a dome at a distance of `gap_mm` from the abdominal wall.
    pub fn dome_inside(&self, gap_mm: f64) -> Point {
        [
            self.cavity[0] - gap_mm,
            self.cavity[1] - gap_mm,
            self.dome - gap_mm,
        ]
    }
}
