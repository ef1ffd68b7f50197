//! The edge of the field of view: a straight line (in volumes a plane) beyond which a patch shows air.

use ndarray::{ArrayViewMut2, ArrayViewMut3};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A line through `point` (y, x); the side that `normal` points to is cleared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ViewLine {
    point: [f32; 2],
    normal: [f32; 2],
}

impl ViewLine {
    /// A line through a random point of the patch, in a random direction.
    pub(super) fn drawn(height: usize, width: usize, rng: &mut ChaCha8Rng) -> Self {
        let angle = std::f32::consts::TAU * rng.random::<f32>();
        Self {
            point: [height, width].map(|side| rng.random::<f32>() * side as f32),
            normal: [angle.sin(), angle.cos()],
        }
    }

    /// Sets everything beyond the line to 0, the low end of the window.
    pub(super) fn clear(&self, plane: ArrayViewMut2<f32>) {
        self.clear_beyond(plane, 0.0);
    }

    /// Same, for everything more than `distance` beyond the line.
    fn clear_beyond(&self, mut plane: ArrayViewMut2<f32>, distance: f32) {
        let [from_y, from_x] = self.point;
        let [down, right] = self.normal;
        for (y, mut row) in plane.outer_iter_mut().enumerate() {
            let beyond = (y as f32 - from_y) * down;
            for (x, value) in row.iter_mut().enumerate() {
                let cleared = beyond + (x as f32 - from_x) * right > distance;
                *value = if cleared { 0.0 } else { *value };
            }
        }
    }
}

/// A plane through `point` (z, y, x); the side that `normal` points to is cleared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ViewPlane {
    point: [f32; 3],
    normal: [f32; 3],
}

impl ViewPlane {
    /// A plane through a random point of the patch, in a uniformly random direction.
    pub(super) fn drawn(shape: [usize; 3], rng: &mut ChaCha8Rng) -> Self {
        let angle = std::f32::consts::TAU * rng.random::<f32>();
        let up = 2.0 * rng.random::<f32>() - 1.0;
        let across = (1.0 - up * up).max(0.0).sqrt();
        Self {
            point: shape.map(|side| rng.random::<f32>() * side as f32),
            normal: [up, across * angle.sin(), across * angle.cos()],
        }
    }

    /// Sets everything beyond the plane to 0, the low end of the window.
    pub(super) fn clear(&self, mut volume: ArrayViewMut3<f32>) {
        let [up, down, right] = self.normal;
        for (z, mut plane) in volume.outer_iter_mut().enumerate() {
            let above = (z as f32 - self.point[0]) * up;
            let edge = ViewLine {
                point: [self.point[1], self.point[2]],
                normal: [down, right],
            };
            edge.clear_beyond(plane.view_mut(), -above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    #[test]
    fn one_side_is_cleared() {
        let edge = ViewLine {
            point: [2.5, 0.0],
            normal: [1.0, 0.0],
        };
        let mut plane = Array2::<f32>::ones((5, 3));
        edge.clear(plane.view_mut());
        let rows: Vec<f32> = plane.rows().into_iter().map(|row| row.sum()).collect();
        assert_eq!(rows, [3.0, 3.0, 3.0, 0.0, 0.0]);
    }

    #[test]
    fn in_volumes_one_side_of_a_plane_is_cleared() {
        let edge = ViewPlane {
            point: [1.5, 0.0, 0.0],
            normal: [-1.0, 0.0, 0.0],
        };
        let mut volume = ndarray::Array3::<f32>::ones((4, 2, 2));
        edge.clear(volume.view_mut());
        let planes: Vec<f32> = volume.outer_iter().map(|plane| plane.sum()).collect();
        assert_eq!(planes, [0.0, 0.0, 4.0, 4.0]);
    }
}
