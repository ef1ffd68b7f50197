//! The same voxels in another order: axes exchanged and reversed, nothing resampled.

use ndarray::{Array3, Axis};

use super::Orientation;

/// Where the axes of a turned array come from: axis i (x, y, z) is axis `from[i]` of the array as it was, run through
/// backwards where `reversed[i]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub from: [usize; 3],
    pub reversed: [bool; 3],
}

impl Turn {
    /// Every voxel stays where it is in the array.
    pub const NONE: Self = Self {
        from: [0, 1, 2],
        reversed: [false; 3],
    };

    /// All 48, [`Turn::NONE`] first.
    pub fn all() -> impl Iterator<Item = Self> {
        Orientation::all().map(|Orientation { axes, flipped }| Self {
            from: axes,
            reversed: flipped,
        })
    }

    /// What gives an array of the orientation `own` the orientation `target`.
    pub fn between(own: Orientation, target: Orientation) -> Self {
        let from = target.axes.map(|world| {
            let own = own.axes.iter().position(|axis| *axis == world);
            own.unwrap_or(world)
        });
        Self {
            from,
            reversed: std::array::from_fn(|axis| own.flipped[from[axis]] != target.flipped[axis]),
        }
    }

    /// What turns back.
    pub fn inverse(&self) -> Self {
        let mut inverse = Self::NONE;
        for (axis, from) in self.from.into_iter().enumerate() {
            inverse.from[from] = axis;
            inverse.reversed[from] = self.reversed[axis];
        }
        inverse
    }

    /// The array turned; (z, y, x) before and after.
    pub fn array<T: Clone>(&self, data: Array3<T>) -> Array3<T> {
        if *self == Self::NONE {
            return data;
        }
        let [x, y, z] = self.from.map(|axis| 2 - axis);
        let mut turned = data.permuted_axes([z, y, x]);
        for axis in (0..3).filter(|axis| self.reversed[*axis]) {
            turned.invert_axis(Axis(2 - axis));
        }
        turned.as_standard_layout().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Grid;

    #[test]
    fn every_turn_keeps_every_voxel_in_place() {
        let grid = Grid {
            shape: [2, 3, 4],
            affine: [
                [-0.7, 0.1, 0.0, 9.0],
                [-0.1, -1.1, 0.2, 12.5],
                [0.0, 0.1, 3.0, -70.25],
            ],
        };
        let at = |[x, y, z]: [usize; 3]| grid.world_mm([x, y, z].map(|v| v as f64));
        let places = Array3::from_shape_fn(grid.shape_zyx(), |(z, y, x)| at([x, y, z]));
        assert_eq!(Turn::all().next(), Some(Turn::NONE));
        for turn in Turn::all() {
            let (turned, array) = (grid.turned(&turn), turn.array(places.clone()));
            assert_eq!(array.shape(), turned.shape_zyx());
            assert_eq!(turn.inverse().array(array.clone()), places);
            for ((z, y, x), was) in array.indexed_iter() {
                let is = turned.world_mm([x, y, z].map(|v| v as f64));
                assert!(
                    (0..3).all(|row| (is[row] - was[row]).abs() < 1e-9),
                    "{turn:?}"
                );
            }
        }
    }
}
