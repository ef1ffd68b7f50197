//! Axis permutations and flips: the same voxels in another order, without resampling.

use ndarray::{Array3, Axis};

use super::Orientation;

/// An axis permutation with flips: axis i (x, y, z) of the result is axis `from[i]` of the input, reversed if
/// `reversed[i]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reorientation {
    /// The input axis that becomes each axis of the result.
    pub from: [usize; 3],
    /// Whether each axis of the result is reversed.
    pub reversed: [bool; 3],
}

impl Reorientation {
    /// Leaves the array unchanged.
    pub const IDENTITY: Self = Self {
        from: [0, 1, 2],
        reversed: [false; 3],
    };

    /// All 48 reorientations, [`Reorientation::IDENTITY`] first.
    pub fn all() -> impl Iterator<Item = Self> {
        Orientation::all().map(|Orientation { axes, flipped }| Self {
            from: axes,
            reversed: flipped,
        })
    }

    /// The reorientation from orientation `own` to `target`.
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

    /// The inverse reorientation.
    pub fn inverse(&self) -> Self {
        let mut inverse = Self::IDENTITY;
        for (axis, from) in self.from.into_iter().enumerate() {
            inverse.from[from] = axis;
            inverse.reversed[from] = self.reversed[axis];
        }
        inverse
    }

    /// Applies it to an array; shape (z, y, x) before and after.
    pub fn apply<T: Clone>(&self, data: Array3<T>) -> Array3<T> {
        if *self == Self::IDENTITY {
            return data;
        }
        let [x, y, z] = self.from.map(|axis| 2 - axis);
        let mut result = data.permuted_axes([z, y, x]);
        for axis in (0..3).filter(|axis| self.reversed[*axis]) {
            result.invert_axis(Axis(2 - axis));
        }
        result.as_standard_layout().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::Grid;

    #[test]
    fn every_reorientation_keeps_every_voxel_in_place() {
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
        assert_eq!(Reorientation::all().next(), Some(Reorientation::IDENTITY));
        for reorientation in Reorientation::all() {
            let (moved, array) = (
                grid.reoriented_by(&reorientation),
                reorientation.apply(places.clone()),
            );
            assert_eq!(array.shape(), moved.shape_zyx());
            assert_eq!(reorientation.inverse().apply(array.clone()), places);
            for ((z, y, x), was) in array.indexed_iter() {
                let is = moved.world_mm([x, y, z].map(|v| v as f64));
                assert!(
                    (0..3).all(|row| (is[row] - was[row]).abs() < 1e-9),
                    "{reorientation:?}"
                );
            }
        }
    }
}
